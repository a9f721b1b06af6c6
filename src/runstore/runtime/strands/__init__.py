"""The adapter between strands-agents and a run's events."""
