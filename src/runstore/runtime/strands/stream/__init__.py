"""What a model sends: mended, measured, and translated into a run's events."""
