"""Retries throttled model calls, however the provider reports the throttling."""

from strands import ModelRetryStrategy
from typing_extensions import override

from runstore.runtime.strands.errors import is_throttled


class Retries(ModelRetryStrategy):
    """strands' exponential back-off. Some of its providers (Ollama's, LiteLLM's) pass a 429 on unchanged."""

    @override
    def is_retryable(self, exception: Exception) -> bool:
        return is_throttled(exception)
