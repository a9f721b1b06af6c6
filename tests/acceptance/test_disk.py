"""A database that is read-only, locked, corrupt, or on a full disk: a clear message, and nothing is lost."""

import os
import resource
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from itertools import islice
from pathlib import Path

import pytest

from tests.acceptance.conftest import CONFIG
from tests.kit.command_line import call_command
from tests.kit.database import make_database
from tests.kit.frames import read_frames, seqs
from tests.kit.logs import assert_no_traceback
from tests.kit.server import SILENT_HEAD, ServerProcess, until
from tests.kit.tools import lacking, require
from tests.kit.waits import within

# For root no file is read-only, unless it gives up its capabilities.
AS_MERE_OWNER = ["--bounding-set=-all", "--inh-caps=-all", "--ambient-caps=-all"]
QUICK_S = 4.0  # a write waits 2 s for another process's lock, then its caller gets an error
MIB = 1 << 20


# When it starts.


def start_fails(folder: Path, *words: str, prefix: tuple[str, ...] = (), **options: str) -> None:
    """The server leaves with exit code 2 and one line that names `words`."""
    if not prefix:
        done = call_command("serve", "--port=0", folder=folder)
        assert done.returncode == 2
        (line,) = done.stderr.splitlines()
        assert all(word in line for word in ("runstore: ", "runstore.db", *words)), line
        return
    with closing(ServerProcess(folder, **options)) as server:
        server.launch(prefix)
        assert server.wait() == 2, server.log
        assert len(server.log.splitlines()) == 1, server.log
        for word in ("runstore: ", "runstore.db", *words):
            assert word in server.log


def mere_owner() -> tuple[str, ...]:
    return (require("setpriv"), *AS_MERE_OWNER) if os.geteuid() == 0 else ()


@contextmanager
def mode(path: Path, mode: int) -> Iterator[None]:
    before = path.stat().st_mode
    path.chmod(mode)
    try:
        yield
    finally:
        path.chmod(before)


def test_a_read_only_database_is_refused(tmp_path: Path) -> None:
    with mode(make_database(tmp_path / "runstore.db"), 0o444):
        start_fails(tmp_path, "read-only", prefix=mere_owner())


def test_a_database_in_a_read_only_folder_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    make_database(folder / "runstore.db")
    with mode(folder, 0o555):
        start_fails(tmp_path, "data/", prefix=mere_owner(), database_url="sqlite:///data/runstore.db")


@pytest.mark.parametrize("content", [b"This is no database. " * 1000, b"SQLite format 3\0" + b"\xa5" * 9000])
def test_a_file_that_is_not_a_database_is_refused_and_unchanged(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "runstore.db"
    path.write_bytes(content)
    start_fails(tmp_path)
    assert path.read_bytes() == content


def test_a_database_that_was_cut_short_is_refused(tmp_path: Path) -> None:
    path = make_database(tmp_path / "runstore.db")
    os.truncate(path, path.stat().st_size // 2)
    start_fails(tmp_path, "malformed")


def test_a_locked_database_is_refused(tmp_path: Path) -> None:
    with locked(make_database(tmp_path / "runstore.db")):
        start_fails(tmp_path, "locked")


# While it runs.


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the only place to write from another process: this one."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        yield
        connection.execute("ROLLBACK")


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Hold a snapshot, as a reader that is frozen."""
    with closing(sqlite3.connect(path, isolation_level=None)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM events").fetchone()
        yield


def refused_quickly(server: ServerProcess) -> None:
    """Every request that writes is answered 503 soon, and at once when the outage is known."""
    run_id = server.http.get("/runs", params={"status": "running"}).json()["data"][0]["run_id"]
    for path, body in (
        ("/agents/silent/start", {"input": "hi"}),
        ("/agents/silent/stream", {"input": "hi"}),
        (f"/runs/{run_id}/events", {"type": "custom.note"}),
        (f"/runs/{run_id}/stop", {}),
    ):
        answer = server.http.post(path, json=body)
        assert answer.status_code == 503
        assert answer.json()["error"]["code"] == "log_unavailable"
        assert "the server's log says why" in answer.json()["error"]["message"]
        assert answer.headers["retry-after"] == "1"
        assert answer.elapsed.total_seconds() < QUICK_S
    assert answer.elapsed.total_seconds() < 1
    assert server.http.get("/readyz").status_code == 503
    assert server.http.get("/healthz").status_code == 200


def accepts_runs(server: ServerProcess) -> bool:
    return server.http.post("/agents/silent/start", json={"input": "hi"}).status_code == 202


def test_a_locked_database_refuses_runs_quickly_and_recovers(serve: Callable[..., ServerProcess]) -> None:
    server = serve()
    talking, silent = server.begin("talker", "on and on"), server.begin_silent()
    talk, silence = server.frames(talking), server.frames(silent)
    heard = list(islice(talk, 20))
    list(islice(silence, SILENT_HEAD))
    noted = server.note(silent, "before")
    with locked(server.database):
        refused_quickly(server)
        assert server.record(talking)["status"] == "running", "reading goes on"
    until(lambda: accepts_runs(server), "the server accepts runs again")
    assert server.http.get("/readyz").status_code == 200
    server.note(silent, "after")
    assert [(frame.seq, frame.data) for frame in islice(silence, 2)] == [
        (noted, "before"),
        (noted + 1, "after"),
    ]
    heard += islice(talk, 100)
    assert seqs(heard) == list(range(1, 121)), "the stream was never cut"
    assert server.stop_run(talking)["status"] == "stopped"
    assert server.log.count("level=error") == 1, "one line reports it"
    assert_no_traceback(server.log)


def test_a_stream_can_be_opened_while_the_log_takes_no_writes(
    serve: Callable[..., ServerProcess],
) -> None:
    server = serve(heartbeat_s=0.2)
    run_id = server.begin_silent()
    with locked(server.database):
        assert server.http.post("/agents/silent/start", json={"input": "hi"}).status_code == 503
        with server.stream(run_id) as answer:
            assert answer.status_code == 200
            frames = read_frames(answer.iter_raw())
            assert seqs(islice(frames, SILENT_HEAD)) == list(range(1, SILENT_HEAD + 1))
            answer.close()


def test_a_cancel_that_could_not_be_written_is_not_forgotten_by_its_client(
    serve: Callable[..., ServerProcess],
) -> None:
    server = serve()
    run_id = server.begin("talker", "on and on")
    next(frame for frame in server.frames(run_id) if frame.type == "llm.token")
    with locked(server.database):
        assert server.http.post(f"/runs/{run_id}/stop").status_code == 503
    until(lambda: server.http.post(f"/runs/{run_id}/stop").is_success, "the stop is accepted")
    assert server.ended(run_id)["status"] == "stopped"


@pytest.mark.slow
def test_sigterm_ends_a_server_that_cannot_write(serve: Callable[..., ServerProcess]) -> None:
    server = serve()
    run_id = server.begin("talker", "on and on")
    next(frame for frame in server.frames(run_id) if frame.type == "llm.token")
    with locked(server.database):
        assert not accepts_runs(server)
        with within(5.0, server.pid):
            server.terminate()
            server.wait()
    server.start()
    assert server.stop_run(run_id)["status"] == "stopped"


@pytest.mark.parametrize("how", ["removed", "replaced"])
def test_a_file_that_was_taken_away_takes_nothing_more_until_it_is_back(
    serve: Callable[..., ServerProcess], how: str
) -> None:
    server = serve()
    run_id = server.begin_silent()
    noted = server.note(run_id, "before")
    taken = server.database.rename(server.database.with_name("taken.db"))
    if how == "replaced":
        make_database(server.database)
    answer = server.http.post("/agents/silent/start", json={"input": "hi"})
    assert answer.status_code == 503
    until(lambda: "the file was removed or replaced" in server.log, "the log says why")
    assert server.http.get("/readyz").status_code == 503
    taken.replace(server.database)
    until(lambda: server.http.get("/readyz").is_success, "the server is ready again without a write")
    assert server.note(run_id, "after") == noted + 1
    server.kill()
    server.start()
    stored = [(event["seq"], event["data"]) for event in server.events(run_id)]
    assert stored[noted - 1 : noted + 1] == [(noted, "before"), (noted + 1, "after")]


REPLACE = """
import os, sqlite3, sys
connection = sqlite3.connect(sys.argv[1])
connection.execute("UPDATE barrier SET purges = purges")
connection.commit()
os._exit(0)  # else it would remove its WAL
"""


@pytest.mark.parametrize("suffixes", [("-wal", "-shm"), ("-wal",)])
@pytest.mark.parametrize("how", ["removed", "replaced"])
def test_a_log_beside_the_file_that_was_taken_away_takes_nothing_more_until_all_processes_have_ended(
    serve: Callable[..., ServerProcess], how: str, suffixes: tuple[str, ...]
) -> None:
    server = serve()
    run_id = server.begin_silent()
    noted = server.note(run_id, "before")
    beside = [server.database.with_name(server.database.name + suffix) for suffix in suffixes]
    taken = [file.stat().st_ino for file in beside]
    held = [file.open("rb") for file in beside]  # so that no other file gets their inodes
    with reading(server.database):  # in a second process
        for file in beside:
            file.unlink()
        if how == "removed":
            call = ("keys", "list", "--database-url", f"sqlite:///{server.database}")
            done = call_command(*call, folder=server.folder)
            assert done.returncode == 2
            assert "stop all processes of the database before you start any" in done.stderr
    if how == "replaced":
        subprocess.run([sys.executable, "-c", REPLACE, str(server.database)], check=len(suffixes) == 2)
        assert all(file.stat().st_ino != before for file, before in zip(beside, taken, strict=True))
    answer = server.http.post("/agents/silent/start", json={"input": "hi"})
    assert answer.status_code == 503
    until(lambda: "-wal or -shm file was removed or replaced" in server.log, "the log says why")
    assert server.http.get("/readyz").status_code == 503
    assert server.http.post("/agents/silent/start", json={"input": "hi"}).status_code == 503
    server.terminate()
    server.wait()
    for file in held:
        file.close()
    server.start()
    stored = [(event["seq"], event["data"]) for event in server.events(run_id)]
    assert stored[noted - 1] == (noted, "before")
    assert server.note(run_id, "after") > noted


# A full disk.


class FullDisk:
    """A disk for a database that can be filled up, and freed again."""

    folder: Path

    def fill(self, server: ServerProcess) -> None:
        raise NotImplementedError

    def free(self, server: ServerProcess) -> None:
        raise NotImplementedError


class SmallTmpfs(FullDisk):
    """A file system in memory of 8 MiB; only root may mount it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._filler = folder / "filler"

    def fill(self, server: ServerProcess) -> None:
        with self._filler.open("wb", buffering=0) as file:
            for size in (MIB, 4096):
                try:
                    while True:
                        file.write(b"x" * size)
                except OSError:
                    pass  # no room for so much

    def free(self, server: ServerProcess) -> None:
        self._filler.unlink()


class FileSizeLimit(FullDisk):
    """No file of the server may grow: what everybody may do, on Linux."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def fill(self, server: ServerProcess) -> None:
        limit = (self.folder / "runstore.db-wal").stat().st_size
        resource.prlimit(server.pid, resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))

    def free(self, server: ServerProcess) -> None:
        resource.prlimit(server.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[FullDisk]:
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=8m", "runstore-test", str(folder)]
    if (
        sys.platform == "linux"
        and os.geteuid() == 0
        and shutil.which("mount")
        and not subprocess.run(mount, capture_output=True).returncode
    ):
        yield SmallTmpfs(folder)
        subprocess.run(["umount", "--lazy", str(folder)], check=True)
    elif hasattr(resource, "prlimit"):
        yield FileSizeLimit(folder)
    else:
        lacking("neither a small file system nor prlimit is to be had")


def test_on_a_full_disk_nothing_acknowledged_is_lost_and_it_recovers(
    serve: Callable[..., ServerProcess], disk: FullDisk
) -> None:
    make_database(disk.folder / "runstore.db")
    server = serve(CONFIG, database_url=f"sqlite:///{disk.folder / 'runstore.db'}")
    talking, noted = server.begin("talker", "on and on"), server.begin_silent()
    talk = server.frames(talking)
    heard = list(islice(talk, 20))
    acknowledged = {server.note(noted, f"before {n}"): f"before {n}" for n in range(10)}

    disk.fill(server)
    for n in range(1_000):
        answer = server.http.post(f"/runs/{noted}/events", json={"type": "custom.note", "data": f"full {n}"})
        if answer.status_code != 201:
            break
        acknowledged[answer.json()["last_seq"]] = f"full {n}"
    assert answer.status_code == 503
    refused_quickly(server)

    disk.free(server)
    until(lambda: accepts_runs(server), "the server accepts runs again")
    acknowledged |= {server.note(noted, f"after {n}"): f"after {n}" for n in range(10)}
    heard += islice(talk, 100)
    assert seqs(heard) == list(range(1, 121)), "the stream was never cut"
    server.kill()
    server.start()
    stored = {event["seq"]: event["data"] for event in server.events(noted) if event["type"] == "custom.note"}
    assert stored == acknowledged
    assert seqs(server.frames(talking))[:120] == list(range(1, 121)) if server.stop_run(talking) else None
    assert_no_traceback(server.log)


def test_on_a_full_disk_a_server_with_nothing_to_write_is_not_ready_until_there_is_room(
    serve: Callable[..., ServerProcess], disk: FullDisk
) -> None:
    make_database(disk.folder / "runstore.db")
    server = serve(CONFIG, database_url=f"sqlite:///{disk.folder / 'runstore.db'}")
    run_id = server.begin_silent()
    with reading(disk.folder / "runstore.db"):  # else SQLite empties its `-wal` file, and there is room
        disk.fill(server)
        while server.http.post(f"/runs/{run_id}/events", json={"type": "custom.note"}).is_success:
            pass
        looking_until = time.monotonic() + 0.5
        while time.monotonic() < looking_until:  # the writer tries again after 0.05 s, 0.1 s, 0.2 s
            assert server.http.get("/readyz").status_code == 503
    disk.free(server)
    until(lambda: server.http.get("/readyz").is_success, "the server is ready again")
    assert server.log.count("log_unavailable") == 1


def test_a_frozen_reader_of_the_database_does_not_stop_the_server(
    serve: Callable[..., ServerProcess],
) -> None:
    server = serve()
    run_id = server.begin_silent()
    with reading(server.database):
        assert [server.note(run_id) for _ in range(50)] == list(range(SILENT_HEAD + 1, SILENT_HEAD + 51))
