"""The executor's API: runs of agents and hierarchies by callers' own ids."""
