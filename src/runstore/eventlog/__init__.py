"""The truth: the log of events, its writer, and the tail that readers follow."""
