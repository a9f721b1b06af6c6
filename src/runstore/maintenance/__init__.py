"""Upkeep beside running writers: purges and rebuilds, in small transactions."""
