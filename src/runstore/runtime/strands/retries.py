"""When a model is called again: it is throttled, whichever way its provider says so."""

from strands import ModelRetryStrategy
from typing_extensions import override

from runstore.runtime.strands.errors import is_throttled


class Retries(ModelRetryStrategy):
    """strands' exponential backoff. Some of its providers (Ollama's, LiteLLM's) pass a 429 on as it came."""

    @override
    def is_retryable(self, exception: Exception) -> bool:
        return is_throttled(exception)
