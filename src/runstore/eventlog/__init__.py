"""The log of events, and its writer."""
