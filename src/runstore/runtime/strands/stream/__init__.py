"""The answers of models: mended, measured, and translated into a run's events."""
