"""The HTTP API: one folder per surface, listed in `app.py`."""
