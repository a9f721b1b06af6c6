"""Where agents run: supervisor, attempt runner, recorder, and the agents themselves."""
