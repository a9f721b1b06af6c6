"""`kill -9` at random moments: acknowledged events are there, and seen frames are the same (G3, G4, G12)."""

import random
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import count

import httpx
import pytest

from tests.kit.frames import read_frames, seqs
from tests.kit.server import DEADLINE_S, ServerProcess, new_client, run_command, serving

SEED = 2026
ROUNDS = 5
MAX_HAPPENED = 500  # frames seen and notes acknowledged before a kill
NEW_RUNS = 2  # in each round
CONFIG = """
[agents.talker]
model = "scripted"
tokens = 100
tokens_per_s = 100
"""


class Witness:
    """Runs outside the server and records acknowledged and seen events until the connection breaks."""

    def __init__(self) -> None:
        self.runs: list[str] = []
        self.acknowledged: dict[str, dict[int, int]] = {}  # run → number of a note → its seq
        self.seen: dict[str, dict[int, bytes]] = {}  # run → seq → frame
        self.contradictions: list[tuple[bytes, bytes]] = []
        self._numbers = count()
        self._happened = 0
        self._news = threading.Condition()

    def watch(self, server: ServerProcess, new_runs: list[str], kill_after: int) -> None:
        """Follow every run and add notes to the new ones; kill the server when so much has happened."""
        self.runs += new_runs
        self._happened = 0
        works = [(self._follow, run_id) for run_id in self.runs]
        works += [(self._produce, run_id) for run_id in new_runs]
        url = str(server.http.base_url)
        threads = [threading.Thread(target=self._until_it_breaks, args=(url, *work)) for work in works]
        for thread in threads:
            thread.start()
        with self._news:
            assert self._news.wait_for(lambda: self._happened >= kill_after, DEADLINE_S)
        server.kill()
        for thread in threads:
            thread.join(DEADLINE_S)
            assert not thread.is_alive()

    def _until_it_breaks(self, url: str, work: Callable[[httpx.Client, str], None], run_id: str) -> None:
        with new_client(url) as http, suppress(httpx.TransportError):
            work(http, run_id)

    def _follow(self, http: httpx.Client, run_id: str) -> None:
        seen = self.seen.setdefault(run_id, {})
        after = {"after": max(seen, default=0)}
        with http.stream("GET", f"/runs/{run_id}/stream", params=after) as answer:
            for frame in read_frames(answer.iter_raw()):
                if seen.setdefault(frame.seq, frame.raw) != frame.raw:
                    self.contradictions.append((seen[frame.seq], frame.raw))
                self._note()

    def _produce(self, http: httpx.Client, run_id: str) -> None:
        acknowledged = self.acknowledged.setdefault(run_id, {})
        while True:
            number = next(self._numbers)
            answer = http.post(f"/runs/{run_id}/events", json={"type": "custom.note", "data": number})
            if answer.status_code == 409:
                return  # the run has ended
            assert answer.status_code == 201, answer.text
            acknowledged[number] = answer.json()["last_seq"]
            self._note()

    def _note(self) -> None:
        with self._news:
            self._happened += 1
            self._news.notify()


Killed = tuple[ServerProcess, Witness]


@pytest.fixture(scope="session")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Killed]:
    """A server that was killed again and again in the middle of its runs, which then came to their ends."""
    chance, witness = random.Random(SEED), Witness()
    with serving(tmp_path_factory.mktemp("killed"), CONFIG) as server:
        for _ in range(ROUNDS):
            new_runs = [server.begin("talker", "so it goes on") for _ in range(NEW_RUNS)]
            witness.watch(server, new_runs, kill_after=chance.randrange(1, MAX_HAPPENED))
            server.start()
        for run_id in witness.runs:
            server.ended(run_id)
        yield server, witness


def test_every_acknowledged_event_is_there_once(killed: Killed) -> None:
    server, witness = killed
    assert sum(map(len, witness.acknowledged.values())) > ROUNDS, "or nothing was tried"
    for run_id, acknowledged in witness.acknowledged.items():
        notes = [frame for frame in server.frames(run_id) if frame.type == "custom.note"]
        stored = {frame.data: frame.seq for frame in notes}
        assert len(stored) == len(notes)
        assert acknowledged.items() <= stored.items()


def test_every_frame_that_was_seen_is_still_the_same(killed: Killed) -> None:
    server, witness = killed
    assert sum(map(len, witness.seen.values())) > ROUNDS, "or nothing was seen"
    assert witness.contradictions == []
    for run_id, seen in witness.seen.items():
        assert seen.items() <= {frame.seq: frame.raw for frame in server.frames(run_id)}.items()


def test_every_stream_is_dense(killed: Killed) -> None:
    server, witness = killed
    for run_id in witness.runs:
        found = seqs(server.frames(run_id))
        assert found == list(range(1, len(found) + 1))


def test_every_run_has_exactly_one_ending_and_nothing_after_it(killed: Killed) -> None:
    server, witness = killed
    for run_id in witness.runs:
        ends = [frame.ends for frame in server.frames(run_id)]
        assert ends == [False] * (len(ends) - 1) + [True]


def test_every_attempt_has_the_number_after_the_last_and_no_run_has_more_than_three(killed: Killed) -> None:
    server, witness = killed
    most = 0
    for run_id in witness.runs:
        attempts = [f.data["attempt"] for f in server.frames(run_id) if f.type == "lifecycle.started"]
        assert attempts == list(range(1, len(attempts) + 1))
        most = max(most, len(attempts))
    assert 1 < most <= 3


def test_the_run_list_agrees_with_the_log(killed: Killed) -> None:
    server, _ = killed
    done = run_command("projections", "verify", folder=server.folder)
    assert done.returncode == 0, done.stdout + done.stderr
