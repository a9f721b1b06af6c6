"""What can be done with runs, hierarchies, keys and workers, whichever surface asks."""
