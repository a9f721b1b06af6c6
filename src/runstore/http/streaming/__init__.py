"""Server-sent events: reading a run's log, replay then live."""
