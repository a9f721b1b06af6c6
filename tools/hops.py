"""Which modules of runstore a start, a token and a cancel pass: `python tools/hops.py`.

Runs a server whose calls are traced while each of them happens, and prints the modules in the order in which
they were first called. Modules that the server calls while nothing happens (sweeps, polls) are left out.
"""

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from pathlib import Path
from types import FrameType
from typing import Any

QUIET_S = 1.2  # longer than a sweep, a poll and a look at the loops take to come again
TOKENS_S = 0.5
LONGEST_S = 60  # after which the server ends by itself, should this process be gone


def serve() -> None:
    """`runstore serve` in this process; SIGUSR1 begins a window, SIGUSR2 ends it and prints its modules."""
    modules: dict[str, None] = {}
    tracing = False

    def profile(frame: FrameType, event: str, _argument: object) -> None:
        if tracing and event == "call":
            name = frame.f_globals.get("__name__", "")
            if name.startswith("runstore."):
                modules[name] = None

    def begin(_number: int, _frame: FrameType | None) -> None:
        nonlocal tracing
        modules.clear()
        tracing = True

    def end(_number: int, _frame: FrameType | None) -> None:
        nonlocal tracing
        tracing = False
        os.write(2, f"WINDOW {json.dumps(list(modules))}\n".encode())

    signal.alarm(LONGEST_S)
    signal.signal(signal.SIGUSR1, begin)
    signal.signal(signal.SIGUSR2, end)
    threading.setprofile(profile)
    sys.setprofile(profile)
    sys.argv = ["runstore", "serve", "--port", "0", "--database-url", "sqlite:///hops.db"]
    try:
        from runstore.cli.main import main
    except ImportError:  # the layout before version 0.2
        from runstore.cli import main  # type: ignore[no-redef,attr-defined]
    main()


class Server:
    def __init__(self, folder: Path) -> None:
        self._log = folder / "log"
        with self._log.open("wb") as log:
            command = [sys.executable, __file__, "serve"]
            self.process = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log)
        self.url = self._said(r"url=(\S+)", 1)[0]

    def _said(self, pattern: str, times: int) -> list[str]:
        while len(found := re.findall(pattern, self._log.read_text())) < times:
            assert self.process.poll() is None, self._log.read_text()
            time.sleep(0.02)
        return found

    def window(self, what: Any) -> list[str]:
        count = len(re.findall("WINDOW (.*)", self._log.read_text()))
        self.process.send_signal(signal.SIGUSR1)
        time.sleep(0.1)
        what()
        self.process.send_signal(signal.SIGUSR2)
        modules: list[str] = json.loads(self._said("WINDOW (.*)", count + 1)[-1])
        return modules

    def ask(self, method: str, path: str, body: Any = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(self.url + path, data, headers, method=method)
        with urllib.request.urlopen(request) as answer:
            return json.load(answer)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        server = Server(Path(folder))
        try:
            start = ("POST", "/agents/demo/start", {"input": "Count from 1 to 500"})
            server.ask("POST", f"/runs/{server.ask(*start)['run_id']}/stop")  # what is done once only
            time.sleep(QUIET_S)
            own = set(server.window(lambda: time.sleep(QUIET_S)))
            begun: dict[str, str] = {}
            found = {"start": server.window(lambda: begun.update(server.ask(*start)))}
            time.sleep(QUIET_S)
            stream = urllib.request.urlopen(f"{server.url}/runs/{begun['run_id']}/stream")
            time.sleep(QUIET_S)
            found["token"] = server.window(lambda: time.sleep(TOKENS_S))
            stop = ("POST", f"/runs/{begun['run_id']}/stop")
            found["cancel"] = server.window(lambda: (server.ask(*stop), stream.read()))
        finally:
            server.process.kill()
            server.process.wait()
    for what, modules in found.items():
        passed = [name.removeprefix("runstore.") for name in modules if name not in own]
        print(f"{what}: {len(passed)} modules\n  {' '.join(passed)}")
    print(f"left out, as the server does it by itself: {len(own)}\n  {' '.join(sorted(own))}")


if __name__ == "__main__":
    serve() if sys.argv[1:] == ["serve"] else main()
