"""Settings of Python itself in a process that serves or drives agents."""

import gc
import sys

# Seconds that a busy agent may hold the GIL; with Python's 5 ms, tokens would wait for seconds.
GIL_SWITCH_S = 0.0005
# Objects until a collection of the young ones, and collections until one of the next generation. Nearly all
# objects of a token are freed without it; one of all objects holds the GIL for a tenth of a second.
GC_THRESHOLDS = (2_000, 10, 50)


def set_up() -> None:
    """Let threads take short turns, and the garbage collector run rarely. Call it after the imports."""
    sys.setswitchinterval(GIL_SWITCH_S)
    gc.set_threshold(*GC_THRESHOLDS)
    keep_imports()


def keep_imports() -> None:
    """Exempt all present objects from collections: call it after imports, while no run is under way."""
    gc.freeze()
