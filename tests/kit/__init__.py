"""Shared by tests: servers, processes, faults, and how to look at them."""
