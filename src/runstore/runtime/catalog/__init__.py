"""The agents, teams and references that the configuration names."""
