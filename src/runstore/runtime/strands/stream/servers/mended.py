"""Lets strands' classes of models read mended answers.

Servers break their protocols, and strands drops what it does not expect. Its chunks no longer
show that. So the clients that it asks are wrapped.
"""

import sys
import threading
from collections.abc import Callable
from typing import Any, NamedTuple

from runstore.runtime.strands.internals import CLIENT
from runstore.runtime.strands.stream.servers import (
    anthropic,
    gemini,
    llamacpp,
    mistral,
    ollama,
    openai,
    responses,
)

_lock = threading.Lock()  # agents' loops have threads of their own


class _Source(NamedTuple):
    """Where strands gets its clients: `name` of a class, or of the module. `mending`: wraps them."""

    module: str
    cls: str | None
    name: str
    mending: Callable[[Any], Any]


SOURCES = (
    _Source("strands.models.gemini", "GeminiModel", CLIENT, gemini.mending),
    _Source("strands.models.mistral", None, "Mistral", mistral.mending),
    _Source("strands.models.ollama", None, "ollama", ollama.mending),
    _Source("strands.models.openai", "OpenAIModel", CLIENT, openai.mending),
    _Source("strands.models.openai_responses", None, "openai", responses.mending),
)
_mended: set[_Source] = set()


def mend_answers(model: Any) -> None:
    """Let a model, or its classes, read mended answers. Safe to call twice."""
    modules = {cls.__module__ for cls in type(model).__mro__}
    if "strands.models.anthropic" in modules:
        anthropic.mend_client(model)
    if "strands.models.llamacpp" in modules:
        llamacpp.mend_client(model)
    with _lock:
        for source in SOURCES:
            if source.module in modules and source not in _mended:
                _mended.add(source)
                owner: Any = sys.modules[source.module]
                owner = owner if source.cls is None else getattr(owner, source.cls)
                setattr(owner, source.name, source.mending(getattr(owner, source.name)))
