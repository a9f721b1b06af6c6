"""Runs again: the dialogues of a recorded run, their differences, and fixtures of them."""
