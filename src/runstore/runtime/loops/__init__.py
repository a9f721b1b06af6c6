"""Event loops and threads that agents run on, and how what runs there is broken off."""
