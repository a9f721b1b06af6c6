"""A recorder is bound to its run, for every caller and thread."""

import asyncio
import random
from concurrent.futures import ThreadPoolExecutor

from runstore.core.codec import decode
from runstore.core.events import Queued, Started, Token
from runstore.core.ids import new_run_id
from runstore.core.ports import EventLog
from runstore.runtime.attempts.recorder import Recorder

RUNS, WORDS, THREADS = 20, 50, 8


async def test_callbacks_of_many_runs_from_one_pool_of_threads_never_mix(log: EventLog) -> None:
    recorders = {}
    for _ in range(RUNS):
        run_id = new_run_id()
        beginning = [
            Queued(agent="a", user_id="u", input="hi"),
            Started(worker_id="w", attempt=1, reason="claimed"),
        ]
        await log.append(run_id, beginning, expected_seq=0)
        recorders[run_id] = Recorder(log, run_id, attempt=1)
    calls = [(run_id, n) for run_id in recorders for n in range(WORDS)]
    random.Random(1).shuffle(calls)
    loop = asyncio.get_running_loop()

    def call_back(run_id: str, n: int) -> None:
        event = Token(agent="a", text=f"{run_id}:{n}")
        asyncio.run_coroutine_threadsafe(recorders[run_id].record(event), loop).result()

    with ThreadPoolExecutor(THREADS) as threads:
        await asyncio.gather(*(loop.run_in_executor(threads, call_back, *call) for call in calls))
    for run_id, recorder in recorders.items():
        await recorder.commit(Token(agent="a", text=f"{run_id}:last"))
        events = await log.read(run_id, after=2)
        said = [decode(event.type, event.version, event.data) for event in events]
        texts = [event.text for event in said if isinstance(event, Token)]
        assert sorted(texts[:-1]) == sorted(f"{run_id}:{n}" for n in range(WORDS))
        assert texts[-1] == f"{run_id}:last"
        assert [event.seq for event in events] == list(range(3, WORDS + 4))
