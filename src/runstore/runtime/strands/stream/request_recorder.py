"""Records what a model is asked, where strands asks it: after every hook and middleware.

The arguments of a model's `stream` are what its provider class makes the request of: the messages as the
conversation manager left them, the system prompt, and the tools that the model may call now.
"""

from collections.abc import AsyncGenerator, Callable, Mapping
from functools import partial
from typing import Any, cast

from strands.middleware import InvokeModelContext
from strands.models import Model

from runstore.core.definitions import harmless
from runstore.core.events import Place
from runstore.runtime.memory.request_references import NextRequest, Record, Requests
from runstore.runtime.strands.stream.chunks import Chunk
from runstore.runtime.strands.stream.servers.request_ids import watch_ids


class RequestRecorder:
    """The model calls of one agent at a place, on the record.

    Args:
        note: called with the path of the agent and the model that it calls.
        identify: called with the provider's id of a call.
    """

    def __init__(
        self,
        place: Place,
        requests: Requests,
        record: Record,
        *,
        note: Callable[[str, Any], None],
        identify: Callable[[Place, str], None],
    ) -> None:
        self._place = place
        self._requests = requests
        self._record = record
        self._note = note
        self._identify = partial(identify, place)

    async def begin(self, model: Any, *arguments: Any, **options: Any) -> None:
        """Record that `model.stream` is about to be called with these arguments."""
        self._note(self._place.agent, model)
        if not self._requests.off:
            await self._requests.ask(self._place, next_request(model, *arguments, **options), self._record)
        watch_ids(self._identify)


class AskedModel:
    """A model, for one call of an agent. It is asked on the record, and answers unchanged."""

    def __init__(self, model: Any, asking: RequestRecorder) -> None:
        self._model = model
        self._asking = asking

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    async def stream(self, *arguments: Any, **options: Any) -> AsyncGenerator[Chunk, None]:
        """See `Model.stream`."""
        await self._asking.begin(self._model, *arguments, **options)
        async for chunk in self._model.stream(*arguments, **options):
            yield chunk


def asked(context: InvokeModelContext, asking: RequestRecorder) -> InvokeModelContext:
    """The context of a model call whose request is recorded."""
    model: Any = AskedModel(context.model, asking)
    return context.replace(model=cast(Model, model))


def next_request(
    model: Any,
    messages: Any,
    tool_specs: Any = None,
    system_prompt: Any = None,
    *,
    system_prompt_content: Any = None,
    tool_choice: Any = None,
    model_state: Any = None,
    dynamic_trailing_blocks: int = 0,
    structured_output_model: Any = None,
    **_: Any,
) -> NextRequest:
    """The request in the arguments of `Model.stream`."""
    config = model.get_config()
    config = dict(config) if isinstance(config, Mapping) else {}
    whole = not system_prompt_content or system_prompt_content == [{"text": system_prompt}]
    return NextRequest(
        model=str(config["model_id"]) if config.get("model_id") else None,
        provider=type(model).__name__,
        parameters=harmless(config),
        system=system_prompt if whole else system_prompt_content,
        tools=tool_specs,
        output_schema=structured_output_model.model_json_schema() if structured_output_model else None,
        tool_choice=tool_choice,
        cache_blocks=dynamic_trailing_blocks,
        state=model_state or {},
        messages=messages,
    )
