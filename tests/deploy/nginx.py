"""nginx with the configuration of deploy/nginx, as an unprivileged process on a free port.

main.conf and site.conf are the shipped files, byte for byte. The test writes only the settings of an
installation: the ports of nginx and the addresses of the replicas, in the files for these settings.
"""

import shutil
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

from tests.deploy.files import DEPLOY
from tests.kit.server import new_client, until
from tests.servers.owner import Owner, owner, program
from tests.servers.ports import Port

STOP_S = 20.0
MAIN = (DEPLOY / "nginx/main.conf").read_text(encoding="utf-8")
# An nginx that also serves other sites, and compresses everything that it can.
COMPRESSING = MAIN.replace(
    "http {", "http { gzip on; gzip_types *; gzip_min_length 0; gzip_proxied any;"
)  # fmt: skip


class Nginx:
    """A running nginx. `http`: a client of its address."""

    def __init__(self, folder: Path, port: int) -> None:
        self.port = port
        self.http = new_client(f"http://127.0.0.1:{port}")
        self._folder = folder

    @property
    def access_log(self) -> str:
        return (self._folder / "access.log").read_text(encoding="utf-8")


@contextmanager
def nginx(replicas: Sequence[int], main: str = MAIN) -> Iterator[Nginx]:
    """nginx before the replicas on these ports of 127.0.0.1, with this main.conf."""
    with ExitStack() as stack:
        port = stack.enter_context(Port())
        listen = f"listen 127.0.0.1:{port.number};\naccess_log access.log runstore;\n"
        servers = "".join(f"server 127.0.0.1:{replica} fail_timeout=2s;\n" for replica in replicas)
        nobody, folder = stack.enter_context(laid_out(listen, servers, main))
        errors = stack.enter_context((folder / "errors").open("w+"))
        process = nobody.start(command(folder), stdout=errors, stderr=errors)
        try:
            # It writes this once it listens.
            until(lambda: (folder / "nginx.pid").exists() or process.poll() is not None, "nginx runs")
            assert process.poll() is None, (folder / "errors").read_text()
            running = Nginx(folder, port.number)
            with closing(running.http):
                yield running
        finally:
            process.terminate()
            process.wait(STOP_S)


@contextmanager
def laid_out(listen: str, replicas: str, main: str = MAIN) -> Iterator[tuple[Owner, Path]]:
    """The configuration at a place where `command` finds it, and a user with the right to read it."""
    nobody = owner("nobody")
    folder = nobody.folder()
    try:
        (folder / "nginx.conf").write_text(main)
        (folder / "runstore").mkdir()
        shutil.copy(DEPLOY / "nginx/site.conf", folder / "runstore/site.conf")
        (folder / "runstore/listen.conf").write_text(listen)
        (folder / "runstore/replicas.conf").write_text(replicas)
        yield nobody, folder
    finally:
        shutil.rmtree(folder)


def verdict(listen: str, replicas: str) -> tuple[int, str]:
    """nginx's messages about a configuration that it only checks."""
    with laid_out(listen, replicas) as (nobody, folder):
        output = folder / "output"
        with output.open("wb") as said:
            output.chmod(0o666)  # nginx opens /dev/stdout, which is this file, again
            code = nobody.start([*command(folder), "-t"], stdout=said, stderr=said).wait(STOP_S)
        return code, output.read_text()


def command(folder: Path) -> list[str]:
    """As in compose.yaml, with other places."""
    return [program("nginx"), "-p", str(folder), "-c", str(folder / "nginx.conf"), "-g", "daemon off;"]
