"""Extends strands' methods that translate a provider's events into its chunks."""

import threading
from collections.abc import Callable, Mapping
from typing import Any

from runstore.runtime.strands.internals import FORMATS

Extend = Callable[[dict[str, Any], Mapping[str, Any]], None]


class Extension:
    """Adds to strands' chunks what its classes leave out, once for each class.

    Args:
        extend: changes a chunk of strands. Its second argument: the event that the chunk was made of.
    """

    def __init__(self, extend: Extend) -> None:
        self._extend = extend
        self._classes: set[type] = set()
        self._lock = threading.Lock()  # agents' loops have threads of their own

    def install(self, model: Any) -> None:
        """Extend the classes of a model. Safe to call twice."""
        with self._lock:
            for cls in type(model).__mro__:
                if cls.__module__.startswith("strands.models.") and cls not in self._classes:
                    self._classes.add(cls)
                    for name in FORMATS:
                        if name in vars(cls):
                            setattr(cls, name, self._extended(vars(cls)[name]))

    def _extended(self, translate: Callable[..., Any]) -> Callable[..., Any]:
        def extended(model: Any, event: Any, *args: Any, **kwargs: Any) -> Any:
            chunk = translate(model, event, *args, **kwargs)
            if isinstance(chunk, dict):
                self._extend(chunk, event)
            return chunk

        return extended
