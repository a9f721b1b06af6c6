"""Where agents run: supervisor, executor, recorder, and the agents themselves."""
