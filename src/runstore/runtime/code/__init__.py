"""Agents that run submitted code in a sandbox."""
