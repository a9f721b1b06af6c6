"""The HTTP API: one file per surface, all routes on one page (`app.py`)."""
