"""Keeps the first piece of a tool call's input, which some of strands' classes drop.

They read only the name and the id of the delta with which a call begins. A server that sends a whole call in
one delta would have its tool called without input.
"""

from collections.abc import Mapping
from typing import Any

from runstore.runtime.strands.stream.format_chunks import Extension
from runstore.runtime.strands.stream.repair import FIRST_PIECE

MODULES = ("strands.models.llamaapi", "strands.models.writer")
STARTS = ("content_start", "content_block_start")  # each module's name for the start of a block


def keep_first_pieces(model: Any) -> None:
    """Let the classes of a model keep them. Safe to call twice."""
    if any(cls.__module__ in MODULES for cls in type(model).__mro__):
        _extension.install(model)


def _keep(chunk: dict[str, Any], event: Mapping[str, Any]) -> None:
    if event.get("chunk_type") in STARTS and event.get("data_type") == "tool":
        piece = getattr(event["data"].function, "arguments", None)
        chunk["contentBlockStart"]["start"]["toolUse"][FIRST_PIECE] = piece


_extension = Extension(_keep)
