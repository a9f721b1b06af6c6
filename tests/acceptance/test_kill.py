"""`kill -9` at random moments: nothing acknowledged is lost, and nothing that was seen changes (G3, G4, G12)."""

import random
import threading
from collections.abc import Callable
from contextlib import suppress
from itertools import count

import httpx

from tests.frames import Frame, read_frames, seqs
from tests.server import DEADLINE_S, ServerProcess, new_client

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
    """Stands outside the server and notes what was acknowledged and what was seen, until the line breaks."""

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


def test_random_kills_lose_nothing_acknowledged_change_nothing_seen_and_end_every_run_once(
    serve: Callable[..., ServerProcess],
) -> None:
    chance, witness = random.Random(SEED), Witness()
    server = serve(CONFIG)
    for _ in range(ROUNDS):
        new_runs = [server.begin("talker", "so it goes on") for _ in range(NEW_RUNS)]
        witness.watch(server, new_runs, kill_after=chance.randrange(1, MAX_HAPPENED))
        server.start()
    attempts = [server.ended(run_id)["attempt"] for run_id in witness.runs]

    for run_id in witness.runs:
        frames = list(server.frames(run_id))
        assert_dense_and_ended_once(frames)
        assert_acknowledged_notes_are_there_once(frames, witness.acknowledged[run_id])
        assert witness.seen[run_id].items() <= {frame.seq: frame.raw for frame in frames}.items()
        starts = [frame.data["attempt"] for frame in frames if frame.type == "lifecycle.started"]
        assert starts == list(range(1, len(starts) + 1))
    assert witness.contradictions == []
    assert 1 < max(attempts) <= 3
    assert min(map(len, witness.seen.values())) > 2, "or nothing was tried"
    assert sum(map(len, witness.acknowledged.values())) > ROUNDS, "or nothing was tried"


def assert_dense_and_ended_once(frames: list[Frame]) -> None:
    assert seqs(frames) == list(range(1, len(frames) + 1))
    assert [frame.ends for frame in frames] == [False] * (len(frames) - 1) + [True]


def assert_acknowledged_notes_are_there_once(frames: list[Frame], acknowledged: dict[int, int]) -> None:
    notes = [frame for frame in frames if frame.type == "custom.note"]
    stored = {frame.data: frame.seq for frame in notes}
    assert len(stored) == len(notes)
    assert acknowledged.items() <= stored.items()
