"""Wakes other processes through Redis."""
