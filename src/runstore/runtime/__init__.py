"""Where agents run: supervisor and executor, the way of their words into the log, and the agents themselves."""
