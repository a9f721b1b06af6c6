"""The console: pages in a browser that show runs live, over the public API and nothing else."""
