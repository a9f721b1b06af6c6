"""Benchmarks, run by `make bench`: figures side by side in one run, since machines differ and are noisy."""
