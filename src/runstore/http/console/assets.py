"""The console's files, read once from the package: scripts, styles and the page that loads them."""

import gzip
import hashlib
import posixpath
import re
from collections.abc import Iterator
from importlib.resources import files
from importlib.resources.abc import Traversable

from msgspec import Struct

PAGE = "index.html"
REPORTS = ("tools", "usage", "users")  # pages of one module
IMPORT = re.compile(r'^(?:import|export) [^;\n]*?from "(\.[^"]+)";$', re.M)
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
    browser may keep them without a limit, and never mixes the files of two releases.
    """

    def __init__(self) -> None:
        found = dict(_read(files("runstore.http.console") / "static"))
        page = found.pop(PAGE).decode()
        self.version = hashlib.sha256(repr(sorted(found.items())).encode()).hexdigest()[:16]
        self.files = {path: _asset(path, body) for path, body in found.items()}
        self._page = page
        self._imports = {
            path: _imports(path, body.decode()) for path, body in found.items() if _is_script(path)
        }
        self._pages: dict[tuple[str, int], Asset] = {}

    def page(self, path: str) -> Asset:
        """The page at a path below the console. It links the scripts that it needs, to be loaded at once."""
        name, _, item = path.partition("/")
        module = "pages/run.js" if item else f"pages/{'reports' if name in REPORTS else name or 'runs'}.js"
        key = (module if module in self._imports else "", path.count("/"))
        if key not in self._pages:
            self._pages[key] = _asset(PAGE, self._linked(self.scripts(key[0]), "../" * key[1]))
        return self._pages[key]

    def scripts(self, module: str) -> list[str]:
        """The scripts that are loaded for a page: the application's and its module's, with all imports."""
        left, found = ["app.js", *([module] if module else [])], set[str]()
        while left:
            path = left.pop()
            if path not in found:
                found.add(path)
                left += self._imports[path]
        return sorted(found)

    def _linked(self, scripts: list[str], up: str) -> bytes:
        static = f"{up}static/{self.version}/"
        links = "\n".join(f'<link rel="modulepreload" href="{static}{path}">' for path in scripts)
        return self._page.replace("{{scripts}}", links).replace("{{static}}", static).encode()


def _is_script(path: str) -> bool:
    return path.endswith(".js")


def _imports(path: str, script: str) -> list[str]:
    """The modules that a script imports. Pages that are imported on demand are not among them."""
    folder = posixpath.dirname(path)
    return [posixpath.normpath(posixpath.join(folder, name)) for name in IMPORT.findall(script)]


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
