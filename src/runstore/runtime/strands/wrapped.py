"""An object in place of another one, some of whose attributes it replaces."""

from typing import Any


class Wrapped:
    """Everything else is the wrapped object's."""

    def __init__(self, wrapped: Any) -> None:
        self._wrapped = wrapped

    def __getattr__(self, name: str) -> Any:
        return getattr(self._wrapped, name)
