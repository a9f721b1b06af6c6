"""A run of a strands agent over several attempts, with the answers that people give between them."""

from collections.abc import Callable, Sequence
from typing import Any
from weakref import WeakSet

from runstore.core.codec import RecordedEvent
from runstore.core.events import InputGiven, InputRequested
from runstore.core.inputs import numbered
from runstore.core.ports import AgentResult, Asked
from runstore.runtime.strands.agent import Product, StrandsAgent
from tests.runtime.recording import ListRecorder, again_after, context, read
from tests.runtime.strands_kit import Playbook


class Story:
    """A run over several attempts, each with an agent of its own, as in processes of their own."""

    def __init__(self, build: Callable[[], Product], *, approve: Sequence[str] = ()) -> None:
        self.build = build
        self.approve = frozenset(approve)
        self.history: list[RecordedEvent] = []
        self.attempts = 0
        self.open: list[InputRequested] = []

    async def attempt(self) -> AgentResult | Asked:
        self.attempts += 1
        history = again_after(self.history, self.attempts) if self.history else []
        recorder = ListRecorder(history)
        driven = StrandsAgent(self.build(), context(self.attempts), WeakSet(), approve=self.approve)
        ended = await driven.run("hi", list(history), recorder)
        if isinstance(ended, Asked):
            self.open = numbered(ended.requests, self.attempts)
            for request in self.open:
                recorder.keep(request)
        self.history = recorder.recorded
        return ended

    async def asks(self) -> list[InputRequested]:
        ended = await self.attempt()
        assert isinstance(ended, Asked), ended
        return self.open

    async def ends(self) -> str:
        ended = await self.attempt()
        assert isinstance(ended, AgentResult), ended
        return str(ended.result["text"])

    def answer(self, *answers: Any) -> None:
        recorder = ListRecorder(self.history)
        for request, answer in zip(self.open, answers, strict=True):
            recorder.keep(InputGiven(request_id=request.request_id, answer=answer, by="ann"))
        self.history = recorder.recorded

    def of(self, cls: type[Any]) -> list[Any]:
        return [event for event in read(self.history) if isinstance(event, cls)]


def model(*turns: Any) -> Callable[[], Playbook]:
    """A model whose turns go on over the attempts."""
    playbook = Playbook(*turns)
    return lambda: playbook
