"""The process of submitted code: limited, in its own directory, and without any data of the server."""

import asyncio
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import suppress
from importlib.resources import files
from pathlib import Path
from typing import IO, Any

import msgspec
from msgspec import Struct

from runstore.core.errors import AgentError
from runstore.runtime.code.sandbox import CodeSandbox

MIB = 1 << 20
READ_BYTES = 1 << 16  # bytes per read of the code's output
MAX_TRACEBACK = 3_000  # characters kept of the end of standard error
FIRST_UID = 61_184  # start of systemd's range for dynamic users (https://systemd.io/UIDS-GIDS)
UIDS = 4_336
SYSTEM_PYTHONS = ("/usr/local/bin/python3", "/usr/bin/python3")

_RUNNER = files("runstore.runtime.code").joinpath("runner.py").read_text(encoding="utf-8")


class CodeLimits(Struct, frozen=True):
    """Limits of one run of submitted code, named as its settings are.

    All but `output_limit_mb` and `process_limit` hold for each process of it.
    """

    cpu_limit_s: int = 60  # seconds of CPU time
    memory_limit_mb: int = 512  # MiB of address space
    file_limit_mb: int = 64  # MiB of one file
    open_files_limit: int = 64
    process_limit: int = 64  # processes and threads of the run in total
    output_limit_mb: int = 10  # MiB of output in total


class CodeProcess:
    """Running submitted code. `kill` ends it; its descendants end with the agent's process."""

    def __init__(self, code: str, input: Any, limits: CodeLimits) -> None:
        """Start the code. Raises AgentError if no process can be started."""
        folder = _own_folder()
        (folder / "run.py").write_text(code, encoding="utf-8", errors="replace")
        (folder / "input.json").write_bytes(msgspec.json.encode(input))
        uid = FIRST_UID + os.getpid() % UIDS if os.geteuid() == 0 else None  # never run the code as root
        if uid is not None:
            for path in (folder, *folder.iterdir()):
                os.chown(path, uid, uid)
        self._output, output = os.pipe()
        os.set_blocking(self._output, False)
        self._errors: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115  # closed by `close`
        sandbox = CodeSandbox(folder)
        try:
            self._process = _begin(
                stdin=subprocess.DEVNULL, stdout=output, stderr=self._errors,
                cwd=folder, env={"TMPDIR": str(folder)}, close_fds=True,
                user=uid, group=uid, extra_groups=None if uid is None else (),
                preexec_fn=_bounded(limits, sandbox),
            )  # fmt: skip
        except (OSError, subprocess.SubprocessError) as error:
            raise AgentError(f"no process can be started for the code: {error}") from error
        finally:
            sandbox.close()
            os.close(output)
        self._ended = asyncio.ensure_future(asyncio.to_thread(self._process.wait))

    async def read(self) -> bytes:
        """More of its output.

        Empty when it has ended and all is read, even if a descendant holds the pipe open.
        """
        while True:
            # Check before reading: output written before the end is then in the pipe.
            ended = self._ended.done()
            with suppress(BlockingIOError):
                return os.read(self._output, READ_BYTES)
            if ended:
                return b""
            await self._news()

    async def ended(self) -> int:
        """Its exit code, or minus the signal that ended it."""
        return await self._ended

    def last_errors(self) -> str:
        """The last lines of its standard error."""
        size = self._errors.seek(0, os.SEEK_END)
        self._errors.seek(max(0, size - 4 * MAX_TRACEBACK))
        text = self._errors.read(4 * MAX_TRACEBACK).decode("utf-8", "replace").strip()
        return text if len(text) <= MAX_TRACEBACK else "…" + text[-MAX_TRACEBACK:]

    def kill(self) -> None:
        """Kill it. Safe to call twice."""
        self._process.kill()

    def close(self) -> None:
        """Kill it and release its resources."""
        self.kill()
        self._errors.close()
        os.close(self._output)

    async def _news(self) -> None:
        loop, readable = asyncio.get_running_loop(), asyncio.Event()
        loop.add_reader(self._output, readable.set)
        self._ended.add_done_callback(lambda _: readable.set())
        try:
            await readable.wait()
        finally:
            loop.remove_reader(self._output)


def _begin(**options: Any) -> "subprocess.Popen[bytes]":
    """Start the first Python that the code's user may execute, as root's own may be unreachable."""
    for python in (sys.executable, *SYSTEM_PYTHONS):
        with suppress(PermissionError, FileNotFoundError):
            return subprocess.Popen([python, "-I", "-B", "-X", "utf8", "-c", _RUNNER], **options)
    raise PermissionError("the code's user can execute neither this Python nor the system's")


def _own_folder() -> Path:
    """A new directory within the one that the keeper removes."""
    if tempfile.tempdir is None:
        raise AgentError("there is no temporary directory for the code")
    os.chmod(tempfile.tempdir, 0o711)  # noqa: S103  # the code's user must be able to pass through
    return Path(tempfile.mkdtemp())


def _bounded(limits: CodeLimits, sandbox: CodeSandbox) -> Callable[[], None]:
    """The limits that the new process sets on itself before it runs the code."""
    memory, size = limits.memory_limit_mb * MIB, limits.file_limit_mb * MIB
    bounds = [
        (resource.RLIMIT_CORE, 0, 0),
        # SIGXCPU first, to report the cause; then SIGKILL.
        (resource.RLIMIT_CPU, limits.cpu_limit_s, limits.cpu_limit_s + 1),
        (resource.RLIMIT_AS, memory, memory),
        (resource.RLIMIT_FSIZE, size, size),
        (resource.RLIMIT_NOFILE, limits.open_files_limit, limits.open_files_limit),
    ]
    if os.geteuid() == 0:  # the code's user has no other processes
        bounds.append((resource.RLIMIT_NPROC, limits.process_limit, limits.process_limit))
    elif (others := _tasks_of_user()) is not None:
        bounds.append((resource.RLIMIT_NPROC, others + limits.process_limit, others + limits.process_limit))

    def bound() -> None:
        for which, soft, hard in bounds:
            resource.setrlimit(which, (soft, hard))
        sandbox.enter()

    return bound


def _tasks_of_user() -> int | None:
    """Threads of our user, which `RLIMIT_NPROC` counts as well; None if that is unknown."""
    found = 0
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if process.stat().st_uid in (os.geteuid(), 0):
                status = dict(line.split(":\t", 1) for line in (process / "status").read_text().splitlines())
                if status["Uid"].split("\t", 1)[0] == str(os.getuid()):
                    found += int(status["Threads"])
    return found or None
