"""Databases: opening them, their dialects, columns and tables."""
