"""The console's files, read once from the package: scripts, styles and the page that loads them."""

import gzip
import hashlib
from collections.abc import Iterator
from importlib.resources import files
from importlib.resources.abc import Traversable

from msgspec import Struct

PAGE = "index.html"
MEDIA_TYPES = {
    "css": "text/css; charset=utf-8",
    "html": "text/html; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
    "txt": "text/plain; charset=utf-8",
}


class Asset(Struct, frozen=True):
    """A file. `gzipped`: the same, compressed."""

    body: bytes
    gzipped: bytes
    etag: str
    media_type: str


class Assets:
    """All files, by their path below `static/`.

    The `version` is a digest of all of them. It is part of the paths under which they are served, so that a
    browser keeps them for ever, and never mixes the files of two releases.
    """

    def __init__(self) -> None:
        found = dict(_read(files("runstore.http.console") / "static"))
        page = found.pop(PAGE).decode()
        self.version = hashlib.sha256(repr(sorted(found.items())).encode()).hexdigest()[:16]
        self.files = {path: _asset(path, body) for path, body in found.items()}
        scripts = sorted(path for path in found if path.endswith(".js"))
        self._pages = {depth: _asset(PAGE, self._linked(page, scripts, "../" * depth)) for depth in range(3)}

    def page(self, depth: int) -> Asset:
        """The page, for a path with so many folders below the console."""
        return self._pages[depth]

    def _linked(self, page: str, scripts: list[str], up: str) -> bytes:
        """The page with relative paths of all scripts, so that they are loaded at once and not one by one."""
        static = f"{up}static/{self.version}/"
        links = "\n".join(f'<link rel="modulepreload" href="{static}{path}">' for path in scripts)
        return page.replace("{{scripts}}", links).replace("{{static}}", static).encode()


def _read(folder: Traversable, prefix: str = "") -> Iterator[tuple[str, bytes]]:
    for each in folder.iterdir():
        if each.is_dir():
            yield from _read(each, f"{prefix}{each.name}/")
        elif each.name.rpartition(".")[2] in MEDIA_TYPES:
            yield f"{prefix}{each.name}", each.read_bytes()


def _asset(path: str, body: bytes) -> Asset:
    digest = hashlib.sha256(body).hexdigest()[:32]
    media_type = MEDIA_TYPES[path.rpartition(".")[2]]
    return Asset(body, gzip.compress(body, 9, mtime=0), f'"{digest}"', media_type)
