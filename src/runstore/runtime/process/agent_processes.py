"""Processes that agents share: each drives many runs. They are started, watched, and started again."""

import asyncio
import random
import time
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress

import structlog

from runstore.core.backoff import Backoff
from runstore.core.codec import EncodedEvent
from runstore.core.errors import AgentError, ConfigError
from runstore.runtime.attempts.runner import AttemptLost
from runstore.runtime.loops.agent_loops import AgentLoops
from runstore.runtime.process import messages
from runstore.runtime.process.channel import Channel, RunChannel
from runstore.runtime.process.fork_server import MANY_RUNS
from runstore.runtime.process.own_processes import how_it_ended
from runstore.runtime.process.processes import Child, Processes

BLOCKED_S = 1.0  # seconds without a message until a process gets no more runs
KILL_S = 10.0  # seconds without a message until a process is killed, so that its runs go on elsewhere
SILENCE_CHECK_S = 0.25  # seconds between two checks for messages
CLOSE_S = 7.5  # seconds for a process to close what its agents hold: 5 for resources, then loops, spans
FIRST_PAUSE_S = (
    0.1  # seconds before a process that has crashed is started again; doubled each time, with jitter
)
LAST_PAUSE_S = 10.0
STEADY_S = 30.0  # seconds after which a process counts as steady: the next pause is the first one again

log = structlog.get_logger(__name__)


class SharedProcess:
    """One process, while it lives. `retired`: it gets no more runs, and ends with its last."""

    def __init__(self, child: Child, settings: messages.Open, on_ready: Callable[[], None]) -> None:
        self.child = child
        self.started_at = time.monotonic()
        # Counted in looks: a server that was stopped for long itself must not take it for a silence.
        self.silent_s = 0.0
        self.ready = False
        self.retired = False
        self.closing = False
        self.blocked = False
        self.alive = messages.Alive(0, 0, 0)
        self.unusable: ConfigError | None = None
        self.status: int | None = None  # how it ended
        self._on_ready = on_ready
        self.channel = Channel(child, settings, fault=self._fault, on_process_message=self._on_message)

    @property
    def takes_runs(self) -> bool:
        return self.ready and not (self.retired or self.blocked or self.channel.reading.done())

    async def _fault(self) -> Exception:
        self.status = await self.child.end()
        return AttemptLost(crashed=True)

    def _on_message(self, message: messages.OfProcess) -> None:
        self.silent_s = 0
        match message:
            case messages.Alive():
                self.alive = message
            case messages.Ready():
                self.ready = True
                self._on_ready()
            case messages.Unusable(text, setting):
                self.unusable = ConfigError(text, setting=setting)
                self.child.kill()


class AgentProcesses:
    """The port `RunChannels`: a number of processes, each with room for any number of runs.

    Its coroutines run on the loop of the pipes, on which agents open their channels.

    Args:
        settings: how the processes build agents.
        max_abandoned_threads: of one process, after which another takes its place.
        on_change: called when processes may take runs again; from the loop of the pipes.
        on_unusable: called if the code of an agent cannot be used by the first process; from the same.
    """

    gentle = False

    def __init__(
        self,
        processes: Processes,
        loops: AgentLoops,
        settings: messages.Open,
        *,
        count: int,
        max_abandoned_threads: int,
        on_change: Callable[[], None],
        on_unusable: Callable[[ConfigError], None],
    ) -> None:
        self._processes = processes
        self._loops = loops
        self._settings = settings
        self._count = count
        self._max_abandoned_threads = max_abandoned_threads
        self._on_change = on_change
        self._on_unusable = on_unusable
        self._living: set[SharedProcess] = set()
        self._changed = asyncio.Event()
        self._keeping: list[Future[None]] = []
        self._seeing_off: set[asyncio.Task[None]] = set()
        self._closing = False
        self._blocked_before = 0  # loops that blocked in processes that have ended
        self._ready_once = False
        self.lost = 0

    @property
    def available(self) -> bool:
        """Whether a process takes runs."""
        return self.open > 0

    @property
    def open(self) -> int:
        """How many processes take runs."""
        return sum(process.takes_runs for process in self._living)

    @property
    def running(self) -> int:
        """How many processes there are."""
        return len(self._living)

    @property
    def abandoned_agents(self) -> int:
        return sum(process.alive.abandoned_agents for process in self._living)

    @property
    def abandoned_threads(self) -> int:
        return sum(process.alive.abandoned_threads for process in self._living if not process.retired)

    @property
    def blocked_loops(self) -> int:
        """How often an agent has blocked its loop."""
        return self._blocked_before + sum(process.alive.blocked_loops for process in self._living)

    def start(self) -> None:
        """Begin to start the processes. Returns at once."""
        loop = self._loops.take("process")
        self._keeping = [loop.submit(self._keep()) for _ in range(self._count)]
        self._keeping.append(loop.submit(self._watch()))

    def event_of(self, message: messages.Offered | messages.WriteAhead) -> EncodedEvent:
        """See `RunChannels.event_of`."""
        return messages.trusted_event_of(message)

    async def take(self) -> RunChannel:
        """A channel to the process that has the fewest runs; waits until there is one."""
        while not (open := [process for process in self._living if process.takes_runs]):
            self._changed.clear()
            await self._changed.wait()
        return min(open, key=lambda process: len(process.channel)).channel.open_run()

    def moved(self) -> Exception:
        """See `RunChannels.moved`."""
        return AttemptLost(crashed=False)

    def leave(self, channel: RunChannel, *, ended: bool, forced: bool) -> None:
        """See `RunChannels.leave`."""
        channel.leave(notify=not ended)
        self._wake()

    def close(self) -> None:
        """End all processes, within CLOSE_S. Blocks; not to be called on the loop of the pipes."""
        self._closing = True
        for keeping in self._keeping:
            keeping.cancel()
        loop = self._loops.take("process")
        ending: Future[None] = Future()

        async def end() -> None:
            try:
                await asyncio.gather(*(self._end(process) for process in list(self._living)))
            finally:
                ending.set_result(None)

        loop.submit(end())
        with suppress(TimeoutError):
            ending.result(CLOSE_S + 1)

    async def _keep(self) -> None:
        """Keep one process running."""
        backoff = Backoff(FIRST_PAUSE_S, LAST_PAUSE_S, random.random)
        while not self._closing:
            process = await self._start()
            if process is not None:
                await self._until_gone(process)
                if process.retired:
                    continue
                if time.monotonic() - process.started_at > STEADY_S:
                    backoff.reset()
                if process.unusable is not None and not self._ready_once:
                    self._on_unusable(process.unusable)
                    return
                self.lost += 1
            pause_s = backoff.next_s()
            if process is not None:
                reason = process.unusable or how_it_ended(process.status)
                log.error("agent_process_lost", reason=str(reason), restart_in_s=round(pause_s, 3))
            await asyncio.sleep(pause_s)

    async def _start(self) -> SharedProcess | None:
        try:
            child = await self._processes.fork(MANY_RUNS)
        except AgentError as error:
            log.error("agent_process_not_started", reason=str(error))
            return None
        process = SharedProcess(child, self._settings, self._on_ready)
        self._living.add(process)
        return process

    async def _until_gone(self, process: SharedProcess) -> None:
        """Wait until a process has ended, or has to be replaced."""
        while not process.channel.reading.done() and not process.retired:
            await asyncio.wait({process.channel.reading}, timeout=SILENCE_CHECK_S)
            if process.alive.abandoned_threads > self._max_abandoned_threads:
                process.retired = True
                log.warning("agent_process_retired", abandoned_threads=process.alive.abandoned_threads)
        if process.retired:
            seeing_off = asyncio.create_task(self._see_off(process))
            self._seeing_off.add(seeing_off)
            seeing_off.add_done_callback(self._seeing_off.discard)
        else:
            self._forget(process)

    async def _see_off(self, process: SharedProcess) -> None:
        """End a retired process after its last run."""
        while len(process.channel) and not process.channel.reading.done():
            self._changed.clear()
            await self._changed.wait()
        await self._end(process)

    async def _end(self, process: SharedProcess) -> None:
        """Let a process close what its agents hold, and exit; kill it if that takes too long."""
        process.retired = process.closing = True
        process.silent_s = BLOCKED_S  # until it says something
        process.channel.send(messages.Close())
        await asyncio.wait({process.channel.reading}, timeout=BLOCKED_S)
        if process.silent_s >= BLOCKED_S or not process.ready:
            process.child.kill()
        await asyncio.wait({process.channel.reading}, timeout=CLOSE_S)
        self._forget(process)

    async def _watch(self) -> None:
        """Give silent processes no more runs, and kill those that stay silent."""
        while True:
            for process in list(self._living):
                process.silent_s += SILENCE_CHECK_S if process.ready and not process.closing else 0
                blocked, process.blocked = process.blocked, process.silent_s >= BLOCKED_S
                if process.blocked and not blocked:
                    log.warning("agent_process_blocked", runs=len(process.channel))
                elif blocked and not process.blocked:
                    self._on_ready()
                if process.silent_s >= KILL_S:
                    process.child.kill()
            await asyncio.sleep(SILENCE_CHECK_S)

    def _forget(self, process: SharedProcess) -> None:
        if process in self._living:
            self._living.discard(process)
            self._blocked_before += process.alive.blocked_loops
            process.channel.reading.cancel()
            self._processes.release(process.child, kind=MANY_RUNS)
        self._wake()

    def _on_ready(self) -> None:
        self._ready_once = True
        self._wake()
        self._on_change()

    def _wake(self) -> None:
        self._changed.set()
