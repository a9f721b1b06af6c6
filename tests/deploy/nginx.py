"""nginx with the configuration of deploy/nginx, as an unprivileged process on a free port.

main.conf and site.conf are the shipped files, byte for byte. What a place sets for itself, where nginx
listens and where the replicas are, is what the test writes: in the files that are there for this.
"""

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from tests.deploy.files import DEPLOY
from tests.server import new_client, until
from tests.tools import require

STOP_S = 20.0
MAIN = (DEPLOY / "nginx/main.conf").read_text(encoding="utf-8")
# Of an nginx that serves other sites too, and compresses whatever it can.
COMPRESSING = "gzip on; gzip_types *; gzip_min_length 0; gzip_proxied any;"
OTHER_MAIN = MAIN.replace("http {", f"http {{\n    {COMPRESSING}")


def program() -> str:
    """nginx, which Debian puts where only root's PATH leads."""
    return shutil.which("nginx") or require("/usr/sbin/nginx")


class Nginx:
    """A running nginx. `http`: a client of its address."""

    def __init__(self, folder: Path, url: str) -> None:
        self.folder = folder
        self.url = url
        self.http = new_client(url)

    @property
    def access_log(self) -> str:
        return (self.folder / "access.log").read_text(encoding="utf-8")

    @property
    def errors(self) -> str:
        return (self.folder / "errors").read_text(encoding="utf-8")


@contextmanager
def nginx(replicas: Sequence[int], main: str = MAIN) -> Iterator[Nginx]:
    """nginx before the replicas on these ports of 127.0.0.1. `main`: another main.conf."""
    with (
        tempfile.TemporaryDirectory() as name,  # pytest's own are closed to other users
        socket.create_server(("127.0.0.1", 0)) as listener,
    ):
        folder, port = Path(name), listener.getsockname()[1]
        servers = "".join(f"server 127.0.0.1:{replica} fail_timeout=2s;\n" for replica in replicas)
        lay_out(folder, f"listen 127.0.0.1:{port};\naccess_log access.log runstore;\n", servers, main)
        # As when it replaces itself, nginx takes over a socket: nobody can take the port in between.
        variables = {**os.environ, "NGINX": f"{listener.fileno()};"}
        with (folder / "errors").open("wb") as errors:
            process = subprocess.Popen(
                command(folder), stdout=errors, stderr=errors,
                env=variables, pass_fds=[listener.fileno()], **_user(),
            )  # fmt: skip
        running = Nginx(folder, f"http://127.0.0.1:{port}")
        listener.close()
        try:
            until(lambda: (folder / "nginx.pid").exists() or process.poll() is not None, "nginx runs")
            assert process.poll() is None, running.errors
            yield running
        finally:
            running.http.close()
            process.terminate()
            process.wait(STOP_S)


def lay_out(folder: Path, listen: str, replicas: str, main: str = MAIN) -> None:
    """Put the configuration where `command` finds it."""
    (folder / "runstore").mkdir()
    (folder / "nginx.conf").write_text(main)
    shutil.copy(DEPLOY / "nginx/site.conf", folder / "runstore/site.conf")
    (folder / "runstore/listen.conf").write_text(listen)
    (folder / "runstore/replicas.conf").write_text(replicas)
    if user := _user():
        shutil.chown(folder, user["user"], user["group"])


def checked(folder: Path) -> "subprocess.CompletedProcess[str]":
    """What nginx says of the configuration in `folder`, as that unprivileged user."""
    with (folder / "said").open("w+") as said:
        os.chmod(said.fileno(), 0o666)
        test = [*command(folder), "-t"]
        done = subprocess.run(test, stdout=said, stderr=said, text=True, check=False, **_user())
        said.seek(0)
        done.stdout = said.read()
    return done


def command(folder: Path) -> list[str]:
    """As in compose.yaml, with other places."""
    return [program(), "-p", str(folder), "-c", str(folder / "nginx.conf"), "-g", "daemon off;"]


def read_head(connection: socket.socket) -> tuple[str, httpx.Headers]:
    """The request line and the headers of a request, as a replica gets them."""
    head = b""
    while b"\r\n\r\n" not in head:
        part = connection.recv(65_536)
        assert part, "the connection ended within the head"
        head += part
    first, *lines = head.partition(b"\r\n\r\n")[0].decode().split("\r\n")
    return first, httpx.Headers([tuple(line.split(": ", 1)) for line in lines])


def _user() -> dict[str, Any]:
    """Who nginx is to be: not root."""
    if os.geteuid() != 0:
        return {}
    nobody = pwd.getpwnam("nobody")
    return {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": ()}
