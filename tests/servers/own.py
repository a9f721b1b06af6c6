"""A server of a test's own, which it may kill, stop, freeze and start again."""

import shutil
import signal
import subprocess
import time
from abc import ABC, abstractmethod
from pathlib import Path
from typing import ClassVar, Self

from tests.kit.process_tree import descendants, runs, send
from tests.servers.owner import owner
from tests.servers.ports import Port

START_S = 60.0  # also after a crash, with a log to replay, on a busy machine
STOP_S = 60.0


class OwnServer(ABC):
    """Listens on a port of 127.0.0.1 that stays the same; its files are in a folder that goes with `close`.

    It runs as an unprivileged user if the tests run as root.
    """

    account: ClassVar[str]  # of the system, to run as instead of root
    stop_signal: ClassVar[signal.Signals] = signal.SIGTERM

    def __init__(self) -> None:
        self._owner = owner(self.account)
        installed = self._installed()  # skip the test if the server is missing: nothing is held yet
        self._port = Port()
        self.port = self._port.number
        self.folder = self._owner.folder()
        self._process: subprocess.Popen[bytes] | None = None
        self._processes: list[int] = []  # those that are frozen
        try:
            if installed is not None:
                self._owner.run("cp", "-R", str(installed), str(self.folder / "data"))
        except BaseException:
            self.close()
            raise

    @abstractmethod
    def _installed(self) -> Path | None:
        """The data that it begins with, which is copied; it skips the test where the program is missing."""

    @property
    @abstractmethod
    def url(self) -> str:
        """The server's URL, as an option of `runstore`."""

    @abstractmethod
    def _command(self) -> list[str]:
        """The program that is the server, in the foreground."""

    @abstractmethod
    def _answers(self) -> bool:
        """Whether it takes connections and statements."""

    def start(self) -> Self:
        """Start, for the first time or again; returns when it answers."""
        with (self.folder / "log").open("ab") as output:
            self._process = self._owner.start(self._command(), stdout=output, stderr=output)
        deadline = time.monotonic() + START_S
        while not self._answers():
            assert self._process.poll() is None, f"it did not start:\n{self.log}"
            assert time.monotonic() < deadline, f"it does not answer:\n{self.log}"
            time.sleep(0.01)
        return self

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def stop(self) -> None:
        """Have it end as when its machine is shut down: clients are cut off, everything is written."""
        assert self._process is not None
        self._process.send_signal(self.stop_signal)
        self._process.wait(STOP_S)

    def kill(self) -> None:
        """`kill -9` of all its processes, at one moment."""
        if self._process is None:
            return
        self.freeze()
        for pid in self._processes:
            send(pid, signal.SIGKILL)
        self._process.wait()
        deadline = time.monotonic() + STOP_S
        while any(map(runs, self._processes)):
            assert time.monotonic() < deadline, f"they do not go: {self._processes}"
            time.sleep(0.002)
        self._processes = []

    def freeze(self) -> None:
        """SIGSTOP for all its processes: connections stay open without answers."""
        send(self.pid, signal.SIGSTOP)  # first, so that it starts no more
        self._processes = [self.pid, *descendants(self.pid)]
        for pid in self._processes:
            send(pid, signal.SIGSTOP)

    def thaw(self) -> None:
        for pid in reversed(self._processes):
            send(pid, signal.SIGCONT)
        self._processes = []

    def close(self) -> None:
        self.kill()
        self._port.release()
        shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self) -> Self:
        try:
            return self.start()
        except BaseException:  # also that it is not installed
            self.close()
            raise

    def __exit__(self, *_error: object) -> None:
        self.close()

    @property
    def answers(self) -> bool:
        """Whether it takes connections now."""
        return self._answers()

    @property
    def log(self) -> str:
        return (self.folder / "log").read_text(errors="replace")
