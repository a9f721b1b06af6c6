"""Submitted Python does what it is for, and nothing else: each limit meets code that does not keep it."""

import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest

from runstore.runtime.code.process import FIRST_UID, UIDS
from tests.kit.code import ENABLED, WAITS, begin, emitted, ended, run, until_said, words
from tests.kit.command_line import call_command
from tests.kit.keys import make_key
from tests.kit.logs import assert_no_traceback
from tests.kit.process_tree import descendants
from tests.kit.server import DEADLINE_S, ServerProcess, serving, until
from tests.kit.slow import slow
from tests.kit.waits import within

GRACE_S = 1.0
TIMEOUT_S = 40
FEW = 4  # processes
FORKS = """
import os
print(os.getuid(), flush=True)
while True:
    try: os.fork()
    except OSError: pass
"""
SECRET = "a-secret-that-no-code-may-see"
MEMORY_MB, OUTPUT_MB, FILE_MB, PROCESSES, OPEN_FILES = 200, 1, 1, 20, 32
CONFIG = f"""
[agents.run-code]
code = true
run_timeout_s = {TIMEOUT_S}
cpu_limit_s = 1
memory_limit_mb = {MEMORY_MB}
output_limit_mb = {OUTPUT_MB}
file_limit_mb = {FILE_MB}
process_limit = {PROCESSES}
open_files_limit = {OPEN_FILES}

[agents.silent]
factory = "agents:silent"
"""
linux = pytest.mark.skipif(not Path("/proc/self").exists(), reason="looks at /proc")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    server = ServerProcess(tmp_path_factory.mktemp("code"), CONFIG, cancel_grace_s=GRACE_S)
    server.variables["MODEL_API_KEY"] = SECRET
    try:
        yield server.start()
        assert_no_traceback(server.log)
    finally:
        server.close()


@pytest.fixture(scope="module")
def roomy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server whose code has time: no limit ends it before a stop does."""
    with serving(tmp_path_factory.mktemp("roomy"), ENABLED, cancel_grace_s=GRACE_S) as server:
        yield server


# The purpose.


def test_each_line_that_it_prints_is_a_token_and_all_of_it_the_result(server: ServerProcess) -> None:
    record = run(server, "print('one')\nprint('zwölf', 'three')\nprint('end', end='')")
    assert words(server, record["run_id"]) == ["one\n", "zwölf three\n", "end"]
    assert (record["status"], record["result"]) == ("success", {"text": "one\nzwölf three\nend"})


def test_it_is_no_model_of_chats(server: ServerProcess) -> None:
    assert "run-code" not in server.http.get("/v1/models").text
    asked = {"model": "run-code", "prompt": "print(1)"}
    for answer in (
        server.http.get("/v1/models/run-code"),
        server.http.post("/v1/chat/completions", json=asked),
    ):
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "model_not_found")


def test_printed_and_emitted_output_is_recorded_in_its_order(server: ServerProcess) -> None:
    code = """
for number in range(3):
    print("print", number, end="")
    emit({"type": "custom.step", "data": number})
    emit(f"emit {number}")
"""
    record = run(server, code)
    said = [(e["type"], e["data"]) for e in server.events(record["run_id"]) if e["type"] != "llm.token"]
    assert said[3:6] == [("custom.step", 0), ("custom.step", 1), ("custom.step", 2)]
    texts = [f"{how} {number}" for number in range(3) for how in ("print", "emit")]
    assert words(server, record["run_id"]) == texts


def test_half_of_a_character_does_not_end_it(server: ServerProcess) -> None:
    record = run(server, "emit('a \\ud83d')\nemit('\\ude42 b \\ud83d')\nprint('c')")
    assert (record["status"], record["result"]) == ("success", {"text": "a 🙂 b \ufffdc\n"})
    assert "".join(words(server, record["run_id"])) == "a 🙂 b \ufffdc\n"


@pytest.mark.parametrize(
    ("returned", "result"),
    [
        ({"sum": 3}, {"sum": 3}),
        ("three", {"text": "three"}),
        slow([1, 2], {"value": [1, 2]}),
        slow(None, {"text": "said\n"}),
    ],
)
def test_the_return_value_of_its_function_run_is_the_result(
    server: ServerProcess, returned: Any, result: dict[str, Any]
) -> None:
    code = """
import asyncio
async def run(input, emit):
    await asyncio.sleep(0)
    emit("said\\n")
    return input
"""
    assert run(server, code, returned)["result"] == result


def test_its_error_is_the_runs_with_the_end_of_its_traceback(server: ServerProcess) -> None:
    record = run(server, "def inner():\n    raise ValueError('no luck')\n\nprint('begun')\ninner()")
    assert (record["status"], record["error_code"]) == ("error", "code_failed")
    assert record["error"].endswith("in inner\n    raise ValueError('no luck')\nValueError: no luck")
    assert words(server, record["run_id"]) == ["begun\n"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("import sys; sys.exit(7)", "exit code 7"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "signal 11"),
        slow("this is no Python", "SyntaxError"),
        slow("async def run(input, emit):\n    return object()", "not JSON serializable"),
        slow("emit({'type': 'lifecycle.completed', 'data': {}})", "lifecycle.completed"),
        slow("emit(5)", "int"),
        ("print('\\x1eforged', flush=True)", "invalid JSON"),
        ("emit('x' * 2_000_000)", "1,048,576"),
    ],
)
def test_every_error_of_submitted_code_ends_its_run_with_a_reason(
    server: ServerProcess, code: str, message: str
) -> None:
    record = run(server, code)
    assert record["status"] == "error"
    assert message in record["error"]


@pytest.mark.slow
def test_its_code_and_input_stand_in_the_runs_first_event(server: ServerProcess) -> None:
    record = run(server, "print(input['a'])", {"a": 1})
    first = server.events(record["run_id"])[0]["data"]
    assert first["input"] == {"code": "print(input['a'])", "input": {"a": 1}}
    assert first["definition"]["code"] is True


# Things that the code cannot see.


def test_its_environment_is_empty_but_for_its_directory(server: ServerProcess) -> None:
    found = emitted(server, "import os; emit({'type': 'custom.environment', 'data': dict(os.environ)})")
    assert found.keys() <= {"TMPDIR", "LC_CTYPE"}  # Python itself sets the second


@linux
def test_it_cannot_look_into_the_server_or_any_process_between(server: ServerProcess) -> None:
    code = """
import os
looked_at, seen, process = [], [], os.getppid()
while True:
    looked_at.append(process)
    for name in ("environ", "mem", "maps", "fd"):
        path = f"/proc/{process}/{name}"
        try:
            if os.listdir(path) if name == "fd" else open(path, "rb").read(1):
                seen.append(path)
        except OSError:
            pass
    if process == input:
        break
    process = int(open(f"/proc/{process}/stat").read().rpartition(")")[2].split()[1])
emit({"type": "custom.seen", "data": [len(looked_at), seen]})
"""
    assert emitted(server, code, server.pid) == [
        4,
        [],
    ]  # the agent's, its keeper, the fork server, the server


def test_it_has_no_descriptor_but_its_standard_ones(server: ServerProcess) -> None:
    code = """
import os
found = []
for number in range(1024):
    try:
        os.fstat(number)
        found.append(number)
    except OSError:
        pass
emit({"type": "custom.descriptors", "data": found})
"""
    assert emitted(server, code) == [0, 1, 2]


def test_it_never_runs_as_root(server: ServerProcess) -> None:
    code = (
        "from os import *; emit({'type': 'custom.ids', 'data': [*getresuid(), *getresgid(), *getgroups()]})"
    )
    assert 0 not in emitted(server, code)


def test_none_of_ours_is_imported_in_its_process(server: ServerProcess) -> None:
    code = "import sys; emit({'type': 'custom.modules', 'data': sorted(sys.modules)})"
    assert not {"runstore", "strands", "sqlalchemy"} & set(emitted(server, code))


READS = """
import os
found = {}
for path in input["paths"]:
    for how in (os.O_RDONLY, os.O_WRONLY):
        try:
            os.close(os.open(path, how))
            found[path] = "open"
        except OSError as error:
            found.setdefault(path, type(error).__name__)
emit({"type": "custom.found", "data": found})
"""


@linux
def test_it_opens_no_file_of_the_servers(server: ServerProcess) -> None:
    database = server.database
    paths = [database, *(Path(f"{database}{suffix}") for suffix in ("-wal", "-shm", ".workers"))]
    paths += [*Path(f"{database}.workers").iterdir(), server.folder / "runstore.toml", Path(__file__)]
    assert len(paths) > 6
    assert server.process is not None
    paths += [Path(f"/proc/{server.process.pid}/environ"), Path(f"/proc/{server.process.pid}/mem")]
    found = emitted(server, READS, {"paths": [str(path) for path in paths]})
    assert found == {str(path): "PermissionError" for path in paths}


SHARED_MEMORY = """
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
calls = {
    "memfd": lambda: os.memfd_create("x"),
    "/dev/shm": lambda: os.open("/dev/shm/runstore-test", os.O_CREAT | os.O_RDWR),
    "shmget": lambda: libc.shmget(0, 1 << 20, 0o1600),
    "msgget": lambda: libc.msgget(0, 0o1600),
    "/tmp": lambda: os.open("/tmp/runstore-test", os.O_CREAT | os.O_RDWR),
}
failed = []
for name, call in calls.items():
    try:
        failed += [name] if call() < 0 else []
    except OSError:
        failed.append(name)
emit({"type": "custom.failed", "data": failed})
"""


@pytest.mark.slow
@linux
def test_it_has_no_memory_that_its_limit_does_not_count(server: ServerProcess) -> None:
    assert emitted(server, SHARED_MEMORY) == ["memfd", "/dev/shm", "shmget", "msgget", "/tmp"]


@pytest.mark.slow
@linux
def test_it_can_get_no_more_rights(server: ServerProcess) -> None:
    code = """
status = dict(line.rstrip().split(":", 1) for line in open("/proc/self/status"))
names = ("NoNewPrivs", "Groups", "CapEff", "Seccomp")
emit({"type": "custom.status", "data": [status[name].strip() for name in names]})
"""
    assert emitted(server, code) == ["1", "", "0" * 16, "2"]


# Resources that the code cannot use up.


@pytest.mark.slow
def test_code_that_computes_without_end_is_ended_by_its_cpu_limit(server: ServerProcess) -> None:
    record = run(server, "while True: pass")
    assert (record["status"], record["error_code"]) == ("error", "cpu_limit")


def test_code_that_needs_too_much_memory_is_ended(server: ServerProcess) -> None:
    record = run(server, "kept = []\nwhile True: kept.append(bytearray(10_000_000))")
    assert (record["status"], record["error_code"]) == ("error", "memory_limit")


def test_memory_that_is_shared_is_bounded_too(server: ServerProcess) -> None:
    record = run(server, f"import mmap\nmmap.mmap(-1, {MEMORY_MB + 1} << 20)")
    assert record["status"] == "error"
    assert "Cannot allocate memory" in record["error"]


def test_a_gigabyte_of_print_is_bounded(server: ServerProcess) -> None:
    record = run(server, "for _ in range(1_000): print('x' * 1_000_000)")
    assert (record["status"], record["error_code"]) == ("error", "output_limit")
    assert sum(map(len, words(server, record["run_id"]))) <= OUTPUT_MB << 20


@pytest.mark.slow
def test_a_flood_of_empty_lines_is_bounded(server: ServerProcess) -> None:
    record = run(server, "while True: print()")
    assert record["error_code"] == "output_limit"
    assert record["last_seq"] < 20_000


@pytest.mark.slow
def test_a_fork_bomb_is_bounded(tmp_path: Path) -> None:
    few = f"process_limit = {FEW}\nrun_timeout_s = {TIMEOUT_S}\ncpu_limit_s = 1\n"  # each takes all its time
    with serving(tmp_path, ENABLED + few, cancel_grace_s=GRACE_S) as server:
        begun_at = time.monotonic()
        run_id = begin(server.http, FORKS)
        uid = next(int(frame.data["text"]) for frame in server.frames(run_id) if frame.type == "llm.token")
        while not (record := server.record(run_id, wait=0.2))["completed_at"]:
            assert server.http.get("/healthz").is_success
            if FIRST_UID <= uid < FIRST_UID + UIDS and Path("/proc/self").exists():
                assert processes_of(uid) <= FEW
        assert record["status"] == "error"
        assert time.monotonic() - begun_at < TIMEOUT_S + DEADLINE_S
        assert_no_traceback(server.log)


def processes_of(uid: int) -> int:
    """The number of processes of a user that is there for code only."""
    count = 0
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            count += process.stat().st_uid == uid
    return count


def test_a_file_has_a_limit(server: ServerProcess) -> None:
    record = run(server, f"with open('big', 'wb') as file: file.write(b'x' * ({FILE_MB + 1} << 20))")
    assert "File too large" in record["error"]


def test_open_files_have_a_limit(server: ServerProcess) -> None:
    record = run(server, "kept = [open('run.py') for _ in range(100)]")
    assert "Too many open files" in record["error"]


def test_code_that_waits_without_end_is_ended_by_its_timeout(tmp_path: Path) -> None:
    with serving(tmp_path, ENABLED + "run_timeout_s = 0.5\n") as server:
        record = run(server, WAITS)
    assert (record["status"], record["error_code"]) == ("error", "timeout")


@pytest.mark.parametrize(
    "code",
    [
        "print('busy')\nwhile True: pass",
        "print('busy')\nimport time\ntime.sleep(3600)",
        "import signal\nfor n in (2, 15): signal.signal(n, signal.SIG_IGN)\nprint('busy')\nwhile True: pass",
    ],
)
def test_a_stop_ends_it_within_the_grace_period(roomy: ServerProcess, code: str) -> None:
    run_id = begin(roomy.http, code)
    until_said(roomy.frames(run_id), "busy\n")
    with within(GRACE_S, roomy.pid, *descendants(roomy.pid)):
        assert roomy.http.post(f"/runs/{run_id}/stop").status_code == 202
        record = ended(roomy.http, run_id)
    assert (record["status"], record["reason"]) == ("stopped", "user")


# Leftovers.

LEAVES = """
import os, subprocess, sys
sleep = [sys.executable, "-I", "-c", "import time; time.sleep(3600)"]
child = subprocess.Popen(sleep, start_new_session=True)
os.makedirs("a/b/c")
open("a/b/c/file", "w").write("left")
os.chmod("a/b", 0)
emit({"type": "custom.left", "data": [child.pid, os.getcwd()]})
"""


@pytest.mark.slow
@linux
@pytest.mark.parametrize("then", ["", "1 / 0", "import os; os.kill(os.getpid(), 9)"])
def test_its_children_and_its_files_go_with_it(server: ServerProcess, then: str) -> None:
    pid, folder = emitted(server, LEAVES + then)
    until(lambda: not Path(f"/proc/{pid}").exists(), "the child is gone")
    until(lambda: not Path(folder).parent.exists(), "the files are gone")


@pytest.mark.slow
def test_a_child_that_holds_its_output_does_not_delay_its_end(server: ServerProcess) -> None:
    sleep = "[sys.executable, '-c', 'import time; time.sleep(3600)']"
    record = run(server, f"import subprocess, sys; subprocess.Popen({sleep}); print('done')")
    assert (record["status"], record["result"]) == ("success", {"text": "done\n"})  # before its timeout


@pytest.mark.slow
@linux
@pytest.mark.parametrize("end", ["stop", "kill", "terminate"])
def test_they_go_too_when_it_is_stopped_or_the_server_ends(tmp_path: Path, end: str) -> None:
    with serving(tmp_path, ENABLED, cancel_grace_s=GRACE_S, drain_s=0) as server:
        run_id = begin(server.http, LEAVES + WAITS)
        until_said(server.frames(run_id), "waiting\n")
        [(pid, folder)] = [e["data"] for e in server.events(run_id) if e["type"] == "custom.left"]
        if end == "stop":
            server.stop_run(run_id)
        else:
            getattr(server, end)()
        until(lambda: not Path(f"/proc/{pid}").exists(), "the child is gone")
        until(lambda: not Path(folder).parent.exists(), "the files are gone")


@pytest.mark.slow
@pytest.mark.parametrize(("policy", "status"), [("", "error"), ("on_worker_lost = 'restart'\n", "success")])
def test_after_a_crash_it_fails_unless_it_may_be_restarted(tmp_path: Path, policy: str, status: str) -> None:
    code = "import time\nprint('begun')\ntime.sleep(input)"
    with serving(tmp_path, ENABLED + policy) as server:
        run_id = begin(server.http, code, 1)
        until_said(server.frames(run_id), "begun\n")
        server.kill()
        server.start()
        record = ended(server.http, run_id)
        assert (record["status"], record["error_code"] or "worker_lost") == (status, "worker_lost")


@pytest.mark.slow
def test_a_restart_in_good_order_begins_it_again(tmp_path: Path) -> None:
    code = "import time\nprint('begun')\ntime.sleep(input)"
    with serving(tmp_path, ENABLED, drain_s=0) as server:
        run_id = begin(server.http, code, 1)
        until_said(server.frames(run_id), "begun\n")
        server.terminate()
        assert server.wait() == 0
        server.start()
        record = ended(server.http, run_id)
        assert (record["status"], record["attempt"], record["result"]) == ("success", 2, {"text": "begun\n"})


# Whether it is there at all.


def test_it_is_off_unless_it_is_enabled(tmp_path: Path) -> None:
    with serving(tmp_path) as server:
        for route in ("start", "stream"):
            answer = server.http.post(f"/agents/run-code/{route}", json={"code": "print(1)"})
            assert (answer.status_code, answer.json()["error"]["code"]) == (404, "agent_not_found")
        assert "run-code" not in server.http.get("/agents").text


@pytest.mark.slow
def test_others_than_this_machine_need_a_key_for_it(tmp_path: Path) -> None:
    (tmp_path / "runstore.toml").write_text(f"[server]\nhost = '0.0.0.0'\nport = 0\n\n{ENABLED}")
    refused = call_command("serve", folder=tmp_path)
    assert refused.returncode == 2
    assert "runstore.toml:6: [agents.run-code]: `code`: " in refused.stderr
    assert "without API keys" in refused.stderr
    key = make_key(tmp_path, "alice")
    with serving(tmp_path, ENABLED, host="0.0.0.0") as server:
        server.http.base_url = httpx.URL(f"http://127.0.0.1:{server.port}")
        assert server.http.post("/agents/run-code/start", json={"code": "1"}).status_code == 401
        server.http.headers["Authorization"] = f"Bearer {key}"
        assert run(server, "print('mine')")["result"] == {"text": "mine\n"}


@pytest.mark.parametrize(
    ("body", "path"),
    [
        ({"input": 1}, "missing required field `code`"),
        ({"code": ""}, "`$.code`"),
        ({"code": 5}, "`$.code`"),
        ({"code": "1", "metadata": []}, "`$.metadata`"),
        ({"code": "1", "cod": "1"}, "`cod`"),
        ({"code": "1", "session_id": ""}, "`$.session_id`"),
    ],
)
@pytest.mark.parametrize("route", ["start", "stream"])
def test_a_body_that_is_wrong_is_refused_with_the_place(
    server: ServerProcess, route: str, body: dict[str, Any], path: str
) -> None:
    answer = server.http.post(f"/agents/run-code/{route}", json=body)
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_body")
    assert path in answer.json()["error"]["message"]


def test_other_agents_take_no_code(server: ServerProcess) -> None:
    answer = server.http.post("/agents/silent/start", json={"input": "hi", "code": "print(1)"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_body")
    assert "`code`" in answer.json()["error"]["message"]
