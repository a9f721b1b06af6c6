"""Settings of Python itself in a process that serves or drives agents."""

import gc
import sys

# Seconds that a busy agent may hold the GIL; with Python's 5 ms, tokens would wait for seconds.
GIL_SWITCH_S = 0.0005


def set_up() -> None:
    """Let threads take short turns, and collections skip the imports. Call it after them."""
    sys.setswitchinterval(GIL_SWITCH_S)
    keep_imports()


def keep_imports() -> None:
    """Exempt all present objects from collections: call it after imports, while no run is under way.

    A collection of all objects holds the GIL: with those of the imports, for a tenth of a second and more.
    """
    gc.freeze()
