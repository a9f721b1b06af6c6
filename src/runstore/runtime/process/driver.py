"""Drives many runs in one process: the agents on their loops, their events in batches to the server.

The main thread has the pipe's loop, on which no agent runs. So a message of the server is heard, and the
server hears a sign of life, unless code holds Python's global lock.
"""

import asyncio
import os
import signal
import socket
import time
import traceback
from collections.abc import Set
from concurrent.futures import Future
from typing import NoReturn

from structlog.contextvars import bound_contextvars

from runstore.core.codec import encode
from runstore.core.errors import ConfigError
from runstore.runtime import interpreter
from runstore.runtime.attempts.runner import failure
from runstore.runtime.attempts.spans import flush_spans
from runstore.runtime.catalog.agents import AgentCatalog
from runstore.runtime.catalog.teams import Teams
from runstore.runtime.holders import CLOSING_S, AttemptHolders, wait_until_closed
from runstore.runtime.loops.agent_loops import LEAVE_S, STOP_S, AgentLoop, AgentLoops, new_event_loop
from runstore.runtime.loops.loop_watch import LOOPS_CHECK_S, LoopWatch
from runstore.runtime.process import messages
from runstore.runtime.process.child import FLUSH_S, answer, begin_process, opened
from runstore.runtime.process.pipe import Pipe, PipeLog, PipeRecorder, receive
from runstore.runtime.process.task import AgentTask
from runstore.threads import in_own_thread


def work(events: socket.socket) -> NoReturn:
    """Drive the server's runs over the socket `events`, until the server ends it."""
    try:
        begin_process()
        # All processes of a service get these signals, but the server ends this one. It has handlers, as the
        # processes that agents start would inherit SIG_IGN.
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: None)
        interpreter.set_up()
        with asyncio.Runner(loop_factory=new_event_loop) as runner:
            runner.run(_work(events))
            os._exit(0)
    except ConnectionError:
        pass  # the server is gone
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(1)


async def _work(events: socket.socket) -> None:
    events.setblocking(False)
    settings = await opened(events)
    loop = asyncio.get_running_loop()
    pipe = Pipe(events, loop, batched=True)
    lines = PipeLog(pipe, loop)
    lines.install()
    catalog = AgentCatalog(settings.agents, teams=Teams(settings.hierarchies))
    try:
        await in_own_thread(lambda: asyncio.run(catalog.check()))
    except ConfigError as error:
        pipe.send(messages.Unusable(str(error), error.setting))
        await receive(events)
        return
    pipe.send(messages.Ready())
    driver = Driver(pipe, catalog)
    watching = asyncio.create_task(driver.watch())
    while not isinstance(message := await receive(events), messages.Close):
        driver.take(message)
    watching.cancel()
    pipe.send(driver.alive())  # now, as closing may take seconds
    await driver.close()
    lines.flush_lines()


class DrivenRun:
    """A run of this process. `left_at`: when it was taken from its agent, on a monotonic clock."""

    def __init__(self, run_id: str, loop: AgentLoop, task: AgentTask) -> None:
        self.run_id = run_id
        self.loop = loop
        self.task = task
        self.left_at: float | None = None


class Driver:
    """The runs of this process, by their numbers. The port `RunningAttempts`."""

    def __init__(self, pipe: Pipe, catalog: AgentCatalog) -> None:
        self._pipe = pipe
        self._catalog = catalog
        self._loops = AgentLoops()
        self._loop_watch = LoopWatch(self._loops, self)
        self._runs: dict[int, DrivenRun] = {}
        self._left: set[DrivenRun] = set()  # their agents go on, though their run was taken from them

    def take(self, message: messages.ToChild) -> None:
        """Act on a message of the server. One about a run that has ended here has no effect."""
        if isinstance(message, messages.Begin):
            self._begin(message)
            return
        run = self._runs.get(getattr(message, "run", 0))
        if run is None:
            return
        match message:
            case messages.Cancel():
                run.loop.call(run.task.cancel)
            case messages.Leave(number):
                self._leave(number, run)
            case _:
                answer(run.task, message)

    async def watch(self) -> None:
        """Watch the loops, and give signs of life."""
        while True:
            await self._loop_watch.look()
            self._pipe.send(self.alive())
            await asyncio.sleep(LOOPS_CHECK_S)

    def alive(self) -> messages.Alive:
        """A sign of life."""
        threads = self._loops.abandoned + self._loops.tools.abandoned
        return messages.Alive(len(self._left), threads, self._loops.blocked)

    async def close(self) -> None:
        """Close what all agents hold, and stop their loops, within a bounded time."""
        for run in (*self._left, *self._runs.values()):
            run.task.let_go()
        await in_own_thread(self._loops.stop, STOP_S)
        await in_own_thread(wait_until_closed, CLOSING_S)
        await in_own_thread(flush_spans, FLUSH_S)

    def ids(self) -> Set[str]:
        return {run.run_id for run in self._runs.values()}

    def on(self, loop: AgentLoop) -> list[str]:
        return [run.run_id for run in self._runs.values() if run.loop is loop]

    def move(self, run_id: str) -> None:
        for number, run in list(self._runs.items()):
            if run.run_id == run_id:
                self._leave(number, run)
                self._pipe.send(messages.Moved(number))

    def let_go(self) -> None:
        self._left = {run for run in self._left if run.loop.alive}
        for run in self._left:
            if run.left_at is not None and time.monotonic() - run.left_at >= LEAVE_S:
                run.task.let_go()
                self._loops.retire(run.loop)

    def _begin(self, begin: messages.Begin) -> None:
        run_id = begin.context.run_id
        recorder = PipeRecorder(self._pipe, begin.run, run_id)
        task = AgentTask(begin, self._catalog, recorder, held=AttemptHolders())
        loop = self._loops.take(self._catalog.isolation(begin.context.agent_name))
        run = self._runs[begin.run] = DrivenRun(run_id, loop, task)
        here = asyncio.get_running_loop()
        with bound_contextvars(run_id=run_id):  # the agent's tasks inherit it: for log lines of any code
            future = loop.submit(self._drive(task))
        future.add_done_callback(lambda done: here.call_soon_threadsafe(self._finished, begin.run, run, done))

    async def _drive(self, task: AgentTask) -> None:
        task.recorder.end(await task.end())

    def _leave(self, number: int, run: DrivenRun) -> None:
        """Stop an agent whose run goes on without it."""
        del self._runs[number]
        run.left_at = time.monotonic()
        self._left.add(run)
        run.task.recorder.leave()
        run.loop.call(run.task.stop)
        self._loops.release(run.loop)

    def _finished(self, number: int, run: DrivenRun, done: "Future[None]") -> None:
        self._left.discard(run)
        if self._runs.pop(number, None) is None:
            return
        self._loops.release(run.loop)
        error = None if done.cancelled() else done.exception()
        if error is not None or done.cancelled():  # the server waits for an ending
            failed = encode(failure(error or RuntimeError("the agent's loop has ended")))
            run.task.recorder.end(messages.Ended(number, failed.type, failed.data))
