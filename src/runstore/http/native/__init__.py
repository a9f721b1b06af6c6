"""The native API: runs, agents, workers and health."""
