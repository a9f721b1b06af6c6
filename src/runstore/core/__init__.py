"""The domain: events, their bytes, what a run is, and the ports that the other packages meet in. Pure."""
