"""The HTTP API: one file per surface, listed in `app.py`."""
