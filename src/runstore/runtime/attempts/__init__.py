"""One attempt of a run: start it, run the agent, record what it says, end it."""
