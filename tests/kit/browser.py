"""A real browser without a window, driven by Chromium's DevTools protocol."""

import json
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
from websockets.sync.client import ClientConnection, connect

from tests.kit.process import DEADLINE_S, until

NAMES = ("chromium", "chromium-browser", "google-chrome")


def chromium() -> str | None:
    """Where Chromium is, if it is installed."""
    return next((found for name in NAMES if (found := shutil.which(name))), None)


class Tab:
    """A page in the browser."""

    def __init__(self, connection: ClientConnection) -> None:
        self._connection = connection
        self._calls = 0

    def open(self, url: str) -> None:
        self._call("Page.navigate", url=url)

    def reload(self) -> None:
        self._call("Page.reload")

    def evaluate(self, expression: str) -> Any:
        """The value of a JavaScript expression; None while the page is not loaded."""
        return self._call("Runtime.evaluate", expression=expression)["result"].get("value")

    def until(self, expression: str, claim: str) -> None:
        until(lambda: self.evaluate(expression) is True, claim)

    def _call(self, method: str, **parameters: Any) -> Any:
        self._calls += 1
        self._connection.send(json.dumps({"id": self._calls, "method": method, "params": parameters}))
        while True:
            answer = json.loads(self._connection.recv(DEADLINE_S))
            if answer.get("id") == self._calls:
                return answer["result"]


@contextmanager
def browsing(program: str, folder: Path) -> Iterator[Tab]:
    """A browser with one empty tab; its profile is in `folder`."""
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--no-proxy-server"]
    command = [program, *options, "--remote-debugging-port=0", f"--user-data-dir={folder}", "about:blank"]
    port_file = folder / "DevToolsActivePort"
    with (folder / "browser.log").open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output)
    try:
        until(lambda: port_file.exists() and port_file.read_text().count("\n") > 0, "the browser listens")
        url = f"http://127.0.0.1:{port_file.read_text().split()[0]}/json/list"
        with httpx.Client(trust_env=False) as http:
            [tab] = [each for each in http.get(url).json() if each["type"] == "page"]
        with connect(tab["webSocketDebuggerUrl"], max_size=None, proxy=None) as connection:
            yield Tab(connection)
    finally:
        process.kill()
        process.wait()
