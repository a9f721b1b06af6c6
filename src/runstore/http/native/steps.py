"""A run as a tree of steps, for people who look at it: whole, at an earlier event, or its changes."""

from functools import partial
from typing import Any

import msgspec
from msgspec import Struct
from starlette.responses import Response

from runstore.core import errors
from runstore.core.codec import to_json
from runstore.core.events import ModelUsage
from runstore.core.folds.comparison import Pair, RunComparison
from runstore.core.folds.step import Step
from runstore.core.folds.transcript import result_text
from runstore.core.run import Run
from runstore.core.times import timestamp
from runstore.http.json import Count, Time, json_response
from runstore.http.native.records import RunRecord, record
from runstore.http.native.runs import AT
from runstore.http.operations import Call, Operation
from runstore.http.query import Query, limit, number
from runstore.http.requests import MAX_CURSOR, Parameter, whole
from runstore.http.schemas import CURSOR, RUN_ID, UUID, json
from runstore.http.security.access import Access
from runstore.projections.prices import NANO, Prices
from runstore.store.runs import RunStore
from runstore.store.steps import MAX_FOLDED, FoldedSteps, ReadPage, StepReader, read_steps
from runstore.threads import WAIT_S, Threads

SHORT_RUN = 10_000  # events of an open run up to which its steps begin with the first one
LATEST = 3_000  # the steps of a longer run begin so many events before the last one, or the requested one

MAX_COMPARED_EVENTS = 5_000  # events of each of two runs that are compared, without streamed text
FOLDS = 2  # concurrent folds of all users: each takes a core for up to a second, and some 100 MB

OTHER_ID = Parameter("other_id", UUID, "the run to compare it with", "path")


class StepsQuery(Query):
    """Which steps of a run."""

    at = AT
    after = number(
        whole(0, MAX_CURSOR),
        "a seq: begin with the events after it. If not given: with the run, or the last events of a long one",
    )
    changed = number(CURSOR, "a seq: only steps that an event after it has changed")
    limit = limit(MAX_FOLDED, LATEST, "events that are folded, without streamed text")


class StepInput(Struct, frozen=True):
    """The run's input, its user and its time."""

    user_id: str
    at: Time
    input: Any


class StepPage(Struct, frozen=True):
    """A run's steps, in the order in which they began.

    `upto`: the seq of the last event in them; `at`: its time. `status`: of the run now, or as asked.
    `after`: events up to this seq were left out; `next`: the cursor of further events, null at the end.
    `unread`: the seqs between which streamed text was not read. `input_tokens`, `output_tokens`, `cost`: sums
    over these model calls; `cost` in units of `currency`, null if no model has a price. `first_at`: the time
    of the first known text of a model.
    """

    data: list[Step]
    status: str
    upto: Count
    at: Time | None
    after: Count
    next: Count | None
    unread: tuple[Count, Count] | None
    ended: bool
    input: StepInput | None
    input_tokens: Count
    output_tokens: Count
    cost: float | None
    currency: str | None
    first_at: Time | None


class ComparedRun(Struct, frozen=True):
    """One of two runs. `steps`: how many model and tool calls it has."""

    run: RunRecord
    steps: Count
    cost: float | None
    currency: str | None


class ComparisonPage(Struct, frozen=True):
    """Two runs: their inputs, steps and results in pairs. `complete`: false if a run has more steps."""

    runs: list[ComparedRun]
    data: list[Pair]
    complete: bool


def fold_threads() -> Threads:
    """Threads that fold runs for people: into steps, comparisons and transcripts."""
    return Threads("runstore-steps", FOLDS, share=FOLDS - 1, wait_s=WAIT_S)


class StepRoutes:
    """The routes `/runs/{run_id}/steps` and `/runs/{run_id}/compare/{other_id}`.

    Args:
        threads: from `fold_threads`.
    """

    tag = "runs"

    def __init__(self, store: RunStore, access: Access, prices: Prices, threads: Threads) -> None:
        self._store = store
        self._access = access
        self._prices = prices
        self._reader = StepReader(store.events, threads)

    @Operation(
        "GET",
        "/runs/{run_id}/steps",
        parameters=(RUN_ID,),
        query=StepsQuery,
        answers={200: json("the steps", StepPage)},
        problems=(errors.InvalidCursor,),
    )
    async def list_steps(self, call: Call[StepsQuery]) -> Response:
        """A run as a tree of steps, now or at an earlier event."""
        query, at = call.query, call.query.at
        run_id = await self._access.readable(call.request, "events")
        found = await self._store.get(run_id, at=at, deleted=call.user.reads_all)
        upto = found.last_seq if at is None else at
        after = query.after if query.after is not None else _begin(found.run, upto, past=at is not None)

        def answer(read: ReadPage) -> Response:
            folded = read_steps(read, run_id, after=after, at=upto, limit=query.limit)
            return json_response(self._page(folded, found.run, query.changed or 0))

        return await self._reader.call(answer)

    @Operation(
        "GET",
        "/runs/{run_id}/compare/{other_id}",
        parameters=(RUN_ID, OTHER_ID),
        answers={200: json("the comparison", ComparisonPage)},
    )
    async def compare_runs(self, call: Call[None]) -> Response:
        """Two runs beside each other, with the words that differ."""
        run_id = await self._access.readable(call.request, "events")
        other_id = await self._access.may_read(call.login, call.request.path_params["other_id"], "events")
        runs = [await self._store.get(each, deleted=call.user.reads_all) for each in (run_id, other_id)]

        def answer(read: ReadPage) -> Response:
            fold = partial(read_steps, read, after=0, limit=MAX_COMPARED_EVENTS)
            steps = [fold(found.run.run_id, at=found.last_seq) for found in runs]
            pairs = _compared([found.run for found in runs], *steps)
            sides = [self._compared_run(found.run, each) for found, each in zip(runs, steps, strict=True)]
            return json_response(ComparisonPage(sides, pairs, all(each.next is None for each in steps)))

        return await self._reader.call(answer)

    def _compared_run(self, run: Run, folded: FoldedSteps) -> ComparedRun:
        page = self._page(folded, run, 0)
        count = sum(step.kind in ("model", "tool") for step in page.data)
        return ComparedRun(record(run), count, page.cost, page.currency)

    def _page(self, folded: FoldedSteps, run: Run, changed: int) -> StepPage:
        fold = folded.fold
        day = timestamp(run.created_at)[:10]
        models = [step for step in fold.steps.values() if step.usage is not None]
        for step in models:
            self._put_cost(step, day)
        costs = [step.cost for step in models if step.cost is not None]
        queued, last = fold.queued, fold.last
        input = None
        if queued is not None:
            input = StepInput(queued.data["user_id"], queued.at, queued.data["input"])
        return StepPage(
            data=[step for step in fold.steps.values() if fold.changed[step.key] > changed],
            status=run.status,
            upto=folded.upto,
            at=last.at if last is not None else None,
            after=folded.after,
            next=folded.next,
            unread=folded.unread,
            ended=run.closed,
            input=input,
            input_tokens=sum((step.usage or {}).get("input_tokens", 0) for step in models),
            output_tokens=sum((step.usage or {}).get("output_tokens", 0) for step in models),
            cost=sum(costs) if costs else None,
            currency=next((step.currency for step in models if step.currency), None),
            first_at=next((step.first_at for step in fold.steps.values() if step.first_at), None),
        )

    def _put_cost(self, step: Step, day: str) -> None:
        usage = step.usage or {}
        if price := self._prices.of(usage.get("model") or "", day):
            counts: dict[str, int] = {
                name: usage.get(name) or 0
                for name in ("input_tokens", "output_tokens", "cache_read_tokens", "cache_write_tokens")
            }
            step.cost, step.currency = price.cost(msgspec.convert(counts, ModelUsage)) / NANO, price.currency


def _begin(run: Run, upto: int, *, past: bool) -> int:
    """The seq after which the steps begin, if the request does not say it."""
    return upto - LATEST if upto > SHORT_RUN and (past or not run.closed) else 0


def _compared(runs: list[Run], left: FoldedSteps, right: FoldedSteps) -> list[Pair]:
    comparison = RunComparison()
    inputs = [_text(run.input) for run in runs]
    results = [result_text(run.result) if run.result is not None else run.error or "" for run in runs]
    # Compare these two before the steps, which may use up the limit of words.
    first, last = comparison.pair("input", "Input", *inputs), comparison.pair("result", "Result", *results)
    return [first, *comparison.steps(left.fold.steps.values(), right.fold.steps.values()), last]


def _text(value: Any) -> str:
    return value if isinstance(value, str) else to_json(value).decode()
