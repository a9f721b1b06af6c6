"""The memory of agents, from the log: this run's earlier attempts, and the session's earlier runs."""
