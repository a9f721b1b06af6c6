"""Event loops and threads that agents run on, and the ways to interrupt what runs there."""
