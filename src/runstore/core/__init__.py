"""The domain: events, their encoding, a run's state, and the ports between packages. Pure."""
