"""State derived from the log: disposable, and rebuilt from it."""
