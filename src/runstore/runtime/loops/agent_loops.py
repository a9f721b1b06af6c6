"""Event loops for attempts, in threads of their own: agents never share the loop that serves HTTP."""

import asyncio
import contextlib
import inspect
import sys
import threading
import time
import traceback
from collections.abc import Coroutine, Iterator
from concurrent.futures import Future
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, Literal, TypeVar

import structlog
from msgspec import Struct
from structlog.contextvars import get_contextvars

from runstore.runtime.loops.interrupts import Interrupted, importing, interrupt
from runstore.runtime.loops.tool_threads import TOOL_THREADS, ToolThreads

Isolation = Literal["loop", "thread", "process"]

BLOCKED_S = 1.0  # seconds without a turn before a loop counts as blocked
LEAVE_S = 1.0  # seconds for an abandoned agent to end before its loop is retired
STOP_S = 0.5  # seconds for all loops to stop when the process ends
STACK_FRAMES = 8  # innermost frames of a blocked loop that the log shows
# What code of one run must not change or end for the others: all runs of a shared loop depend on it.
SHARED_SETTINGS = ("set_task_factory", "set_default_executor", "set_exception_handler", "set_debug")
SHARED_ENDS = ("shutdown_default_executor", "shutdown_asyncgens")

log = structlog.get_logger(__name__)

T = TypeVar("T")

_unending: list[asyncio.Task[Any]] = []  # tasks that do not end when they are closed: kept from the collector


class _Task(asyncio.Task[Any]):
    """A task that knows the run it works for: the run of the task that made it."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.run_id: str | None = get_contextvars().get("run_id")

    def cancel(self, msg: Any = None) -> bool:
        """Cancel the task, unless code of another run asks: it may cancel all tasks that it finds."""
        asking = asyncio.current_task(self.get_loop())
        if isinstance(asking, _Task) and asking.run_id and self.run_id not in (None, asking.run_id):
            return False
        return super().cancel(msg)


def _make_task(loop: asyncio.AbstractEventLoop, coroutine: Any, **options: Any) -> _Task:
    return _Task(coroutine, loop=loop, **options)


def _keep_settings(loop: asyncio.AbstractEventLoop) -> None:
    """From now on code on the loop can change no setting of it."""

    refused: set[str] = set()  # logged once, as code may call it without end

    def keep(name: str, *arguments: Any) -> None:
        if name not in refused:
            refused.add(name)
            log.warning("loop_setting_refused", call=name)

    async def keep_on(name: str, *arguments: Any) -> None:
        keep(name)

    for name in SHARED_SETTINGS:
        setattr(loop, name, partial(keep, name))
    for name in SHARED_ENDS:
        setattr(loop, name, partial(keep_on, name))


class AgentLoop:
    """An event loop in a daemon thread. `attempts`: the number of its attempts that were not abandoned."""

    def __init__(self, name: str, tools: ToolThreads, *, retired: bool = False) -> None:
        self.attempts = 0
        self.retired = retired  # takes no more attempts, and ends with its last
        self.blocked = False  # whether the last `look` found it blocked
        self._stopped = False
        self._asked_at: float | None = None
        self._loop = new_event_loop()
        self._loop.set_default_executor(tools)
        self._loop.set_task_factory(_make_task)
        if not retired:  # other attempts come
            _keep_settings(self._loop)
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    @property
    def current_run(self) -> str | None:
        """The run whose code holds the loop now."""
        task = asyncio.current_task(self._loop)
        return task.run_id if isinstance(task, _Task) else None

    def submit(self, coroutine: Coroutine[Any, Any, T]) -> "Future[T]":
        """Start a coroutine there; from any thread."""
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop)

    def call(self, function: Any, *arguments: Any) -> None:
        """Call a function there, soon; from any thread."""
        with contextlib.suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(function, *arguments)

    def silent_s(self) -> float:
        """Seconds since an unanswered request for a sign of life; makes the next request otherwise."""
        now, asked_at = time.monotonic(), self._asked_at
        if asked_at is not None:
            return now - asked_at
        self._asked_at = now
        self.call(self._answer)
        return 0

    def stack(self) -> str:
        """The stack of its thread, innermost first: `function file:line < …`."""
        frame = sys._current_frames().get(self._thread.ident or 0)
        frames = islice(traceback.walk_stack(frame), STACK_FRAMES) if frame else []
        lines = [(at.f_code.co_name, Path(at.f_code.co_filename).name, line) for at, line in frames]
        return " < ".join(f"{function} {file}:{line}" for function, file, line in lines)

    def stop(self) -> None:
        """Let the thread end at the loop's next turn, even if tasks are left. Safe from any thread."""
        self._stopped = True
        self.call(self._loop.stop)

    def interrupt(self) -> None:
        """Break off what holds a loop that is to stop, if it is Python."""
        thread_id = self._thread.ident
        if self._stopped and self.alive and thread_id and thread_id not in importing():
            interrupt(thread_id)

    def join(self, timeout_s: float) -> bool:
        """Wait for the end of the thread; False when an agent holds it for longer."""
        self._thread.join(timeout_s)
        return not self.alive

    def _answer(self) -> None:
        self._asked_at = None

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            while not self._stopped:
                self._run_until_stopped()
            self._throw_tasks_away()
        finally:
            self._loop.close()

    def _run_until_stopped(self) -> None:
        try:
            self._loop.run_forever()
        except Interrupted:
            pass
        except (
            SystemExit,
            KeyboardInterrupt,
        ) as error:  # these end a loop that other agents need
            log.warning("agent_exited", error=repr(error))

    def _throw_tasks_away(self) -> None:
        """Close agents that do not end by themselves.

        Python then runs their `finally` blocks in this thread. The garbage collector would run them in any.
        """
        tasks = list(asyncio.all_tasks(self._loop))
        while tasks:
            with contextlib.suppress(Interrupted):  # one that came late, between two of them
                while tasks:
                    _throw_away(tasks[-1])
                    tasks.pop()


def _throw_away(task: asyncio.Task[Any]) -> None:
    task._log_destroy_pending = False  # type: ignore[attr-defined]  # the log has it already
    coroutine: Any = task.get_coro()  # or a step of an async generator, which has no state to look at
    with contextlib.suppress(BaseException):  # a late error of the agent is of no use
        coroutine.close()
    if inspect.iscoroutine(coroutine) and inspect.getcoroutinestate(coroutine) != inspect.CORO_CLOSED:
        _unending.append(task)


class Blocked(Struct, frozen=True):
    """A loop that has stopped turning. `run_id`: whose code blocks it, if known; `stack`: the first time."""

    loop: AgentLoop
    run_id: str | None
    silent_s: float
    stack: str | None


class AgentLoops:
    """The loops of a process, by isolation level.

    `loop`: one that all such attempts share; `thread`: one for each attempt; `process`: one that holds the
    server's ends of the pipes, and runs no agent's code. A shared loop that an agent holds, or does not
    leave, is retired: new attempts get a fresh one.
    """

    def __init__(self) -> None:
        self.tools = ToolThreads(TOOL_THREADS, "runstore-tool")
        self._shared: AgentLoop | None = None  # each begins with the first attempt that needs it
        self._pipes: AgentLoop | None = None
        self._loops: set[AgentLoop] = set()
        self.blocked = 0  # incidents

    @property
    def abandoned(self) -> int:
        """How many threads should have ended, and have not."""
        return sum(loop.retired and loop.attempts == 0 and loop.alive for loop in self._loops)

    def take(self, isolation: Isolation) -> AgentLoop:
        """The loop for an attempt, to be given back by `release`."""
        if isolation == "thread":
            loop = self._new("runstore-agent", retired=True)
        elif isolation == "process":
            loop = self._pipes = self._pipes or self._new("runstore-pipes")
        else:
            loop = self._shared = self._shared or self._new("runstore-agents")
        loop.attempts += 1
        return loop

    def release(self, loop: AgentLoop) -> None:
        """Note that an attempt has ended there, or was given up."""
        loop.attempts -= 1
        self._stop_if_idle(loop)

    def retire(self, loop: AgentLoop) -> None:
        """Give it no more attempts."""
        if loop is self._shared:
            self._shared = None
            loop.retired = True
            self._stop_if_idle(loop)

    def look(self) -> Iterator[Blocked]:
        """The loops that are blocked. Call it several times a second, from one thread."""
        self._loops = {loop for loop in self._loops if loop.alive}
        for loop in list(self._loops):
            silent_s = loop.silent_s()
            newly = silent_s >= BLOCKED_S and not loop.blocked
            loop.blocked = silent_s >= BLOCKED_S
            self.blocked += newly
            if loop.blocked:
                yield Blocked(loop, loop.current_run, silent_s, loop.stack() if newly else None)

    def interrupt(self) -> None:
        """Break off what holds loops that should have ended."""
        for loop in self._loops:
            if loop.blocked:
                loop.interrupt()

    def stop(self, timeout_s: float) -> None:
        """Stop all loops; threads that agents hold for longer are left behind."""
        for loop in self._loops:
            loop.stop()
        until = time.monotonic() + timeout_s
        for loop in self._loops:
            loop.join(max(0, until - time.monotonic()))

    def _new(self, name: str, *, retired: bool = False) -> AgentLoop:
        loop = AgentLoop(name, self.tools, retired=retired)
        self._loops.add(loop)
        return loop

    def _stop_if_idle(self, loop: AgentLoop) -> None:
        if loop.retired and loop.attempts == 0:
            loop.stop()


def new_event_loop() -> asyncio.AbstractEventLoop:
    """uvloop's, where there is one: it comes with uvicorn[standard], but not on every platform."""
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()
