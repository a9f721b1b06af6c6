"""Several servers and workers on one database, with one configuration in one folder."""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from tests.kit.process import RunstoreProcess, run_command
from tests.kit.server import SILENT_AGENT, ServerProcess, write_configuration
from tests.servers.ports import Port

VERIFY_S = 60.0


class WorkerProcess(RunstoreProcess):
    """`runstore worker`; it has started once it takes runs."""

    command = "worker"
    ready = re.compile(r"""^(?:{"event": ")?working\b.* "?worker_id(?:=|": ")([^\s"]+)""", re.M)

    @property
    def worker_id(self) -> str:
        """Of the process that was started last: each has another one."""
        return self.wait_until_ready()


class Cluster:
    """Nothing runs yet; `add_servers` and `add_workers` start some, `start_all` starts those that do not run.

    Args:
        database_url: of a database with this release's schema.
        redis_url: None for wake-ups by polling.
        options: of every process, as `lease_s=1`.
    """

    def __init__(
        self,
        folder: Path,
        database_url: str,
        redis_url: str | None = None,
        *,
        config: str = "",
        agents: str = SILENT_AGENT,
        **options: Any,
    ) -> None:
        self.folder = folder
        self.database_url = database_url
        self.options = {"database_url": database_url, **options}
        if redis_url is not None:
            self.options["redis_url"] = redis_url
        self.servers: list[ServerProcess] = []
        self.workers: list[WorkerProcess] = []
        self._ports: list[Port] = []
        write_configuration(folder, config, agents)

    @property
    def processes(self) -> list[RunstoreProcess]:
        return [*self.servers, *self.workers]

    @property
    def urls(self) -> list[str]:
        """Of the servers that have ever listened; one that is down refuses connections."""
        return [str(server.http.base_url) for server in self.servers if server.http.base_url.host]

    @property
    def log(self) -> str:
        """The output of all processes."""
        said = [(f"{each.command} {number}", each.log) for number, each in enumerate(self.processes, 1)]
        return "\n".join(f"--- {name}\n{log}" for name, log in said)

    def add_servers(self, count: int, **options: Any) -> list[ServerProcess]:
        """Start servers that run no agents, or with `worker=True` do. Each keeps its port over restarts."""
        runs_agents = options.pop("worker", False)
        options = self.options | ({} if runs_agents else {"no_worker": True}) | options
        ports = [Port() for _ in range(count)]
        self._ports += ports
        added = [ServerProcess(self.folder, None, None, port=each.number, **options) for each in ports]
        self.servers += added
        _start(added)
        return added

    def add_workers(
        self, count: int, variables: Mapping[str, str] | None = None, **options: Any
    ) -> list[WorkerProcess]:
        """Start workers. `variables`: of their environment."""
        added = [WorkerProcess(self.folder, **self.options | options) for _ in range(count)]
        for each in added:
            each.variables |= variables or {}
        self.workers += added
        _start(added)
        return added

    def start_all(self) -> None:
        """Start those that have ended."""
        _start([each for each in self.processes if each.has_exited])

    def verify(self) -> str:
        """Compare the run list with the log; returns what differs, empty if nothing."""
        done = run_command(
            "projections", "verify", f"--database-url={self.database_url}",
            folder=self.folder, timeout_s=VERIFY_S,
        )  # fmt: skip
        return "" if done.returncode == 0 else done.stdout + done.stderr

    def close(self) -> None:
        for each in self.processes:
            each.close()
        for port in self._ports:
            port.release()


@contextmanager
def cluster(
    folder: Path,
    database_url: str,
    redis_url: str | None = None,
    *,
    servers: int = 2,
    workers: int = 2,
    **options: Any,
) -> Iterator[Cluster]:
    """A running cluster; in the end all its processes are killed."""
    with ExitStack() as stack:
        made = Cluster(folder, database_url, redis_url, **options)
        stack.callback(made.close)
        made.add_servers(servers)
        made.add_workers(workers)
        yield made


def _start(processes: Sequence[RunstoreProcess]) -> None:
    """All at once: a start takes a second of computing and of waiting."""
    for each in processes:
        each.launch()
    for each in processes:
        each.wait_until_ready()
