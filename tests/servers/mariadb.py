"""A MariaDB of a test's own, as durable as one in production, and small."""

from functools import cache
from pathlib import Path

import pymysql

from tests.servers.own import OwnServer
from tests.servers.owner import owner, program
from tests.servers.shared import PLAIN

SMALL = {"innodb-log-file-size": "8M", "innodb-buffer-pool-size": "32M", "skip-name-resolve": "ON"}
SETTINGS = SMALL | {
    "bind-address": "127.0.0.1",
    "innodb-flush-log-at-trx-commit": "1",
    "innodb-buffer-pool-load-at-startup": "OFF",
    "innodb-buffer-pool-dump-at-shutdown": "OFF",
    "performance-schema": "OFF",
}


class OwnMariadb(OwnServer):
    """Options are those of mariadbd, with `_` for `-`."""

    account = "mysql"

    def __init__(self, **settings: str) -> None:
        super().__init__()
        self._settings = SETTINGS | {name.replace("_", "-"): value for name, value in settings.items()}

    @property
    def url(self) -> str:
        return f"mysql+pymysql://root@127.0.0.1:{self.port}/runstore{PLAIN}"

    def _installed(self) -> Path:
        program("mariadbd")
        return _installed()

    def _command(self) -> list[str]:
        places = {
            "datadir": self.folder / "data",
            "socket": self.folder / "socket",
            "pid-file": self.folder / "pid",
        }
        settings = {"port": self.port, **places, **self._settings}
        options = [f"--{name}={value}" for name, value in settings.items()]
        return [program("mariadbd"), "--no-defaults", *options]

    def _answers(self) -> bool:
        try:
            connection = pymysql.connect(host="127.0.0.1", port=self.port, user="root", ssl_disabled=True)
        except pymysql.OperationalError:
            return False
        with connection, connection.cursor() as cursor:
            cursor.execute("CREATE DATABASE IF NOT EXISTS runstore CHARACTER SET utf8mb4")
        return True


@cache
def _installed() -> Path:
    by = owner(OwnMariadb.account)
    folder = by.kept_folder() / "data"
    by.run(
        program("mariadb-install-db"), "--no-defaults", f"--datadir={folder}", "--skip-test-db",
        "--auth-root-authentication-method=normal", *(f"--{name}={value}" for name, value in SMALL.items()),
    )  # fmt: skip
    return folder
