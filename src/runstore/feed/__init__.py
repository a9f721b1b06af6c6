"""News of committed events, and the cursors that read them."""
