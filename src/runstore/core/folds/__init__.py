"""Folds of a run's events into what people read: steps, trees, transcripts, texts."""
