"""Only what was waited for a core makes a bound longer, and only up to a bound of its own."""

import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from resource import RUSAGE_CHILDREN, getrusage

import pytest

from tests.kit import waits as module
from tests.kit.waits import HIGHEST_S, LATER_S, CoreWaits, Waited, core_waits, waited_since


def waits_of(waited_s: float) -> CoreWaits:
    """A thread that waited so long for a core between second 1 and second 2."""
    return waits_in({"1/1": waited_s})


def waits_in(waited: Waited) -> CoreWaits:
    """Threads that waited so long for a core between second 1 and second 2."""
    waits = CoreWaits()
    waits.samples = [(0.0, {"1/1": 7.0}), (1.0, {}), (2.0, waited), (9.0, {})]
    return waits


@pytest.mark.parametrize("waited_s", [0.0, 0.2, HIGHEST_S])
def test_a_bound_grows_by_what_was_waited_in_its_time(waited_s: float) -> None:
    longest_s = 1.0 + LATER_S + waited_s
    waits_of(waited_s).check(1.0, (1.0, 1.0 + longest_s - 0.01), (5.0, 5.5))
    with pytest.raises(AssertionError):
        waits_of(waited_s).check(1.0, (5.0, 5.5), (1.0, 1.0 + longest_s + 0.01))


def test_what_was_waited_at_another_time_does_not_count() -> None:
    with pytest.raises(AssertionError):
        waits_of(HIGHEST_S).check(1.0, (2.5, 3.5 + LATER_S + 0.01))


def test_on_a_machine_that_is_too_busy_to_measure_a_late_end_is_a_failure() -> None:
    with pytest.raises(AssertionError, match=r"1\.71 s of it waiting"):
        waits_of(60.0).check(1.0, (1.0, 2.0 + LATER_S + HIGHEST_S + 0.01))


def test_a_process_that_sleeps_waits_for_no_core() -> None:
    with core_waits(os.getpid()) as waits:
        begun_at = time.time()
        time.sleep(1.0)
        ended_at = time.time()
    assert waits.between(begun_at, ended_at) < 0.5


def test_threads_of_a_process_wait_beside_each_other() -> None:
    waited = {f"1/{thread}": 0.1 for thread in range(20)}
    assert waits_in({**waited, "1/20": 0.2}).between(1.0, 2.0) == 0.2


def test_processes_may_wait_for_each_other_but_no_longer_than_it_took() -> None:
    waited = {"1/1": 0.2, "1/2": 0.1, "2/1": 0.3, "stolen": 0.1}
    assert waits_in(waited).between(1.0, 2.0) == pytest.approx(0.6)
    assert waits_in(waited).between(1.0, 1.5) == pytest.approx(0.5)


@pytest.fixture
def proc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A system of 16 cores without processes."""
    monkeypatch.setattr(module, "PROC", tmp_path)
    monkeypatch.setattr(os, "cpu_count", lambda: 16)
    return tmp_path


def test_a_thread_id_that_is_used_again_counts_from_zero(proc: Path) -> None:
    (task := proc / "1/task/5").mkdir(parents=True)
    counts: dict[str, float] = {}
    found = []
    for waited_ns in (3_000_000_000, 4_000_000_000, 4_000_000_000, 500_000_000):
        (task / "schedstat").write_text(f"1 {waited_ns} 1\n")
        found.append(waited_since(counts, ["1", "2"]))
    assert found == [{"1/5": 3.0}, {"1/5": 1.0}, {}, {"1/5": 0.5}]


def test_stolen_time_counts_by_core(proc: Path) -> None:
    ticks = os.sysconf("SC_CLK_TCK")
    (proc / "stat").write_text(f"cpu  1 2 3 4 5 6 7 {16 * ticks} 0 0\n")
    assert waited_since({}, []) == {"stolen": 1.0}


@pytest.fixture
def many_threads() -> Iterator[None]:
    done = threading.Event()
    threads = [threading.Thread(target=done.wait, daemon=True) for _ in range(1_000)]
    for thread in threads:
        thread.start()
    yield
    done.set()
    for thread in threads:
        thread.join()


@pytest.mark.usefixtures("many_threads")
def test_sampling_many_threads_takes_little_of_a_core() -> None:
    before = getrusage(RUSAGE_CHILDREN)
    with core_waits(os.getpid()):
        time.sleep(1.0)
    after = getrusage(RUSAGE_CHILDREN)
    used_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    assert used_s < 0.4
