"""Bounds of time that hold on a busy machine, too: what waited for a core counts apart.

A bound that is loose enough for the busiest machine holds nothing. So a bound grows only by the seconds that
the measured processes waited for a core while they were measured, as the kernel counts them
(proc_pid_schedstat(5)), and by HIGHEST_S at most. A process of its own samples them: the test process may be
busy itself.
"""

import os
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from glob import glob
from itertools import chain
from pathlib import Path

LATER_S = 0.3  # what each promise may take longer: to answer, to commit, to be seen
HIGHEST_S = 0.4  # with LATER_S less than the 0.8 s that a late stop is late: beyond it a test fails
SAMPLE_S = 0.02
Sample = tuple[float, float]  # the time, and the seconds waited so far
Span = tuple[float, float]  # from begin to end, by the time of day


class CoreWaits:
    """How many seconds the processes have waited for a core, by the time of day. Known after the block."""

    def __init__(self) -> None:
        self.samples: list[Sample] = []

    def between(self, begun_at: float, ended_at: float) -> float:
        """The seconds waited from the last sample before to the first one after."""
        before = [waited for at, waited in self.samples if at <= begun_at]
        after = [waited for at, waited in self.samples if at >= ended_at]
        assert before, "the block had not begun"
        assert after, "the block had ended"
        return after[0] - before[-1]

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
    for line in lines.splitlines():
        at, waited_s = map(float, line.split())
        waits.samples.append((at, waited_s))


@contextmanager
def within(promise_s: float, *pids: int) -> Iterator[None]:
    """Fail if the block takes longer than promised. It is the work of this process and of `pids`."""
    with core_waits(os.getpid(), *pids) as waits:
        begun_at = time.time()
        yield
        ended_at = time.time()
    waits.check(promise_s, (begun_at, ended_at))


def sample(pids: list[str]) -> Iterator[Sample]:
    """Yield samples until stdin is closed. What a thread has waited still counts when it has ended."""
    waited_ns: dict[str, int] = {}
    closed = False
    while True:
        sampled_at = time.time()
        for file in chain.from_iterable(glob(f"/proc/{pid}/task/*/schedstat") for pid in pids):
            with suppress(OSError, IndexError), open(file) as schedstat:  # the thread has ended
                waited_ns[file] = int(schedstat.read().split()[1])
        yield sampled_at, sum(waited_ns.values()) / 1e9 + stolen_s()
        if closed:
            return
        closed = bool(select.select([sys.stdin], [], [], SAMPLE_S)[0])


def stolen_s() -> float:
    """The seconds that a hypervisor has kept from this machine's cores (proc_stat(5))."""
    try:
        steal = Path("/proc/stat").read_text().split()[8]
    except (OSError, IndexError):
        return 0.0
    return int(steal) / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    samples = sample(sys.argv[1:])
    taken = [next(samples)]
    print("begun", flush=True)
    taken += samples
    for at, waited_s in taken:
        print(at, waited_s)
