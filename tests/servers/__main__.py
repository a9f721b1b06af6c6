"""`python -m tests.servers COMMAND …` runs a command, as `make test`, with servers for its tests.

Those that answer where they should are used. For the others small ones are started on free ports, with empty
temporary folders; they end with the command.
"""

import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack

import pytest

from tests.servers.mariadb import OwnMariadb
from tests.servers.own import OwnServer
from tests.servers.postgres import OwnPostgres
from tests.servers.redis import OwnRedis
from tests.servers.shared import SHARED, configured, failure

# Nothing in them is to be kept, so nothing is synced; many test processes share them.
STARTS: dict[str, Callable[[], OwnServer]] = {
    "postgresql": lambda: OwnPostgres(fsync="off", shared_buffers="128MB", max_connections="400"),
    "mysql": lambda: OwnMariadb(
        innodb_flush_log_at_trx_commit="0", innodb_buffer_pool_size="128M", max_connections="400"
    ),
    "redis": OwnRedis,
}


def main(command: list[str]) -> int:
    with ExitStack() as stack:
        environment = dict(os.environ)
        for kind in STARTS:
            if failure(kind) is not None:
                url = start(kind, stack)
                environment |= {SHARED[kind][0]: url} if url else {}
        return subprocess.run(command, env=environment, check=False).returncode


def start(kind: str, stack: ExitStack) -> str | None:
    """Start a server; None when it is not installed, which the tests that need it will say again."""
    if os.environ.get(SHARED[kind][0]):
        print(f"tests: {configured(kind)} does not answer", file=sys.stderr)
        return None
    try:
        url = stack.enter_context(STARTS[kind]()).url
    except (pytest.skip.Exception, pytest.fail.Exception) as lacking:
        print(f"tests: no {kind}: {lacking.msg}", file=sys.stderr)
        return None
    print(f"tests: started {url}", file=sys.stderr, flush=True)
    return url


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    sys.exit(main(sys.argv[1:]))
