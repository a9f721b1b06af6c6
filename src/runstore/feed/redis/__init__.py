"""News between processes, over Redis."""
