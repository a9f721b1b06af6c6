"""A pgbouncer of a test's own, in front of a PostgreSQL."""

import psycopg
from sqlalchemy import make_url

from tests.servers.own import OwnServer
from tests.servers.owner import program


class OwnPgbouncer(OwnServer):
    """Serves all databases of one server.

    Args:
        database_url: of any of them.
        sessions: of the server, for each database; all clients share them, for a transaction each.
    """

    account = "postgres"

    def __init__(self, database_url: str, *, sessions: int = 3) -> None:
        super().__init__()
        self._behind = make_url(database_url)
        (self.folder / "pgbouncer.ini").write_text(
            f"""
[databases]
* = host={self._behind.host} port={self._behind.port or 5432} user={self._behind.username}

[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {self.port}
unix_socket_dir =
auth_type = any
pool_mode = transaction
default_pool_size = {sessions}
max_client_conn = 500
"""
        )
        (self.folder / "pgbouncer.ini").chmod(0o644)

    @property
    def url(self) -> str:
        """Of the database that it was made with."""
        through = self._behind.set(host="127.0.0.1", port=self.port)
        return through.render_as_string(hide_password=False)

    def _installed(self) -> None:
        program("pgbouncer")

    def _command(self) -> list[str]:
        return [program("pgbouncer"), str(self.folder / "pgbouncer.ini")]

    def _answers(self) -> bool:
        try:
            psycopg.connect(self.url.replace("+psycopg", "")).close()
        except psycopg.OperationalError:
            return False
        return True
