"""Records what the agents of a run do, and lets them go on from an earlier attempt."""
