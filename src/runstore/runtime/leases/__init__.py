"""Leases: which workers are alive, by locks of files on one machine and by heartbeats elsewhere."""
