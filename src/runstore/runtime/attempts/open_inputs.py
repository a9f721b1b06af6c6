"""Reads the requests for input that a run may still wait for."""

from runstore.core.events import Started
from runstore.core.inputs import INPUTS, Input, fold_inputs
from runstore.core.pages import pages
from runstore.core.ports import EventFilter, LogReader

_STARTED = EventFilter(types=frozenset({Started.type}))


class OpenInputs:
    """The requests of a run's last attempt: only these can be open. Others take no memory.

    Reading again after the run has grown reads only its new events.
    """

    def __init__(self, log: LogReader, run_id: str) -> None:
        self._log = log
        self._run_id = run_id
        self._begin = 0  # the seq of the last attempt's start
        self._upto = 0
        self._inputs: dict[str, Input] = {}

    async def read(self, upto: int) -> dict[str, Input]:
        """The requests by their id, in the order in which they were asked, with their answers.

        Args:
            upto: the run's head.

        Raises:
            RunPurged
        """
        async for page in pages(self._log, self._run_id, after=self._upto, upto=upto, only=_STARTED):
            if starts := [event.seq for event in page if event.type == Started.type]:
                self._begin = self._upto = starts[-1]
                self._inputs = {}
        async for page in pages(self._log, self._run_id, after=self._upto, upto=upto, only=INPUTS):
            self._inputs = fold_inputs(page, self._inputs)
        self._upto = upto
        return self._inputs

    async def earlier(self, request_id: str) -> Input | None:
        """A request of an attempt before the last one that was read."""
        found: dict[str, Input] = {}
        async for page in pages(self._log, self._run_id, upto=self._begin, only=INPUTS):
            folded = fold_inputs(page, found)
            found = {request_id: folded[request_id]} if request_id in folded else {}
        return found.get(request_id)
