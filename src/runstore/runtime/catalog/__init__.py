"""What can be run: the agents, teams and references that the configuration names."""
