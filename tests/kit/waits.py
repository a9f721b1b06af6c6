"""Bounds of time that hold on a busy machine, too: what waited for a core counts apart.

A bound that is loose enough for the busiest machine holds nothing. So a bound grows only by the seconds that
the measured processes waited for a core while they were measured, as the kernel counts them
(proc_pid_schedstat(5)), and by HIGHEST_S at most. The threads of a process wait at the same time, so the one
that waited longest counts. A process of its own samples them: the test process may be busy itself.
"""

import json
import os
import select
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

LATER_S = 0.3  # what each promise may take longer: to answer, to commit, to be seen
HIGHEST_S = 0.4  # with LATER_S less than the 0.8 s that a late stop is late: beyond it a test fails
SAMPLE_S = 0.02
REST = 4  # the sampling process rests so many times as long as a sample took
PROC = Path("/proc")
Waited = dict[str, float]  # by "PROCESS/THREAD": the seconds waited since the sample before
Sample = tuple[float, Waited]  # with the time of day
Span = tuple[float, float]  # from begin to end, by the time of day


class CoreWaits:
    """How many seconds the processes have waited for a core, by the time of day. Known after the block."""

    def __init__(self) -> None:
        self.samples: list[Sample] = []

    def between(self, begun_at: float, ended_at: float) -> float:
        """The seconds waited from the last sample before to the first one after; no more than there were."""
        before = [number for number, (at, _) in enumerate(self.samples) if at <= begun_at]
        after = [number for number, (at, _) in enumerate(self.samples) if at >= ended_at]
        assert before, "the block had not begun"
        assert after, "the block had ended"
        by_thread: Waited = defaultdict(float)
        for _, waited in self.samples[before[-1] + 1 : after[0] + 1]:
            for thread, waited_s in waited.items():
                by_thread[thread] += waited_s
        by_process: Waited = defaultdict(float)
        for thread, waited_s in by_thread.items():
            process = thread.partition("/")[0]
            by_process[process] = max(by_process[process], waited_s)
        return min(sum(by_process.values()), ended_at - begun_at)

    def beyond(self, begun_at: float, ended_at: float) -> float:
        """The seconds that it took without those waited; of these, HIGHEST_S at most."""
        return ended_at - begun_at - min(self.between(begun_at, ended_at), HIGHEST_S)

    def check(self, promise_s: float, *spans: Span) -> None:
        """Fail if a span took longer than was promised, LATER_S, and the seconds waited in it."""
        took = [
            (f"{end - begin:.2f} s", f"{self.between(begin, end):.2f} s of it waiting")
            for begin, end in spans
        ]
        slowest_s = max(self.beyond(begin, end) for begin, end in spans)
        assert slowest_s < promise_s + LATER_S, (promise_s, took)


@contextmanager
def core_waits(*pids: int) -> Iterator[CoreWaits]:
    """Measure these processes for as long as the block runs."""
    waits = CoreWaits()
    command = [sys.executable, "-I", "-S", __file__, *map(str, pids)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as sampling:
        assert sampling.stdout is not None
        sampling.stdout.readline()  # it has begun
        try:
            yield waits
        finally:
            lines, _ = sampling.communicate()
    waits.samples += [(at, waited) for at, waited in map(json.loads, lines.splitlines())]


@contextmanager
def within(promise_s: float, *pids: int) -> Iterator[None]:
    """Fail if the block takes longer than promised. It is the work of this process and of `pids`."""
    with core_waits(os.getpid(), *pids) as waits:
        begun_at = time.time()
        yield
        ended_at = time.time()
    waits.check(promise_s, (begun_at, ended_at))


def sample(pids: list[str]) -> Iterator[Sample]:
    """Yield samples until stdin is closed."""
    counts: dict[str, float] = {}
    closed = False
    while True:
        sampled_at, begun_at = time.time(), time.monotonic()
        yield sampled_at, waited_since(counts, pids)
        if closed:
            return
        pause_s = max(SAMPLE_S, REST * (time.monotonic() - begun_at))
        closed = bool(select.select([sys.stdin], [], [], pause_s)[0])


def waited_since(counts: dict[str, float], pids: list[str]) -> Waited:
    """What each thread has waited since it had `counts`, which are brought up to date.

    A thread that gets the id of one that has ended counts from zero.
    """
    waited = {}
    for thread, count in counted(pids):
        before = counts.get(thread, 0.0)
        if count != before:
            waited[thread] = count - before if count > before else count
            counts[thread] = count
    return waited


def counted(pids: list[str]) -> Iterator[tuple[str, float]]:
    """The seconds that each thread has waited since it began, and those that a hypervisor kept each core."""
    for pid in pids:
        tasks = PROC / pid / "task"
        with suppress(OSError):  # the process has ended
            for tid in os.listdir(tasks):
                with suppress(OSError, IndexError), open(f"{tasks}/{tid}/schedstat") as schedstat:
                    yield f"{pid}/{tid}", int(schedstat.read().split()[1]) / 1e9
    with suppress(OSError, IndexError):
        stolen = int((PROC / "stat").read_text().split()[8])  # from all cores, as proc_stat(5) has it
        yield "stolen", stolen / os.sysconf("SC_CLK_TCK") / (os.cpu_count() or 1)


if __name__ == "__main__":
    samples = sample(sys.argv[1:])
    taken = [next(samples)]
    print("begun", flush=True)
    taken += samples
    for each in taken:
        print(json.dumps(each))
