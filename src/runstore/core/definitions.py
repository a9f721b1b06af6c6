"""An agent's settings as a run keeps them permanently, for all its readers.

A model's arguments go to a foreign constructor, and any of them may be a secret. Only values of HARMLESS
names are kept; of the others, also within objects, only the fact that they were set.
"""

from typing import Any

from runstore.core.masking import without_credentials

SET = "***"  # replaces a value that is not kept
HARMLESS = frozenset(
    {
        "model_id", "temperature", "top_p", "top_k", "min_p", "seed", "stop", "stop_sequences", "streaming",
        "max_tokens", "max_completion_tokens", "max_output_tokens", "num_predict", "num_ctx",
        "context_window_limit", "frequency_penalty", "presence_penalty", "repetition_penalty", "verbosity",
        "reasoning_effort", "budget_tokens", "region_name", "max_retries", "timeout",
    }
)  # fmt: skip
_SIMPLE = (str, int, float, bool, type(None))


def recorded(settings: dict[str, Any]) -> dict[str, Any]:
    """The settings of an agent or a model as JSON, without possible secrets."""
    kept = {name: _without_credentials(value) for name, value in settings.items() if name != "model_args"}
    if "model_args" in settings:
        kept["model_args"] = harmless(settings["model_args"])
    return {name: kept[name] for name in settings}


def harmless(arguments: dict[str, Any]) -> dict[str, Any]:
    """The arguments of a model as JSON, without possible secrets."""
    return {name: _value(name, value) for name, value in arguments.items()}


def _value(name: str, value: Any) -> Any:
    if isinstance(value, dict):
        return harmless(value)
    if name not in HARMLESS:
        return SET
    simple = all(isinstance(item, _SIMPLE) for item in (value if isinstance(value, list) else [value]))
    return _without_credentials(value) if simple else SET


def _without_credentials(value: Any) -> Any:
    """Texts with URLs, without users and passwords."""
    if isinstance(value, dict):
        return {key: _without_credentials(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_without_credentials(item) for item in value]
    return without_credentials(value, SET) if isinstance(value, str) else value
