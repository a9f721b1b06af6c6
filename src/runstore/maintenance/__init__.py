"""Purges and rebuilds while writers run, in small transactions."""
