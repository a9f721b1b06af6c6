"""How long the fault tests go on: short in CI, and as long as one likes with `make soak`."""

import os

SOAK_VARIABLE = "RUNSTORE_SOAK"
SOAK = int(os.environ.get(SOAK_VARIABLE) or 1)  # how many times each fault test repeats its fault
