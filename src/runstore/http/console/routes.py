"""Serves the console's files.

They hold no data of runs, so they need no login; the API that they call does.
"""

import re

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from runstore.http.console.assets import Asset, Assets
from runstore.http.errors import path_of
from runstore.http.requests import has_already, prefers

ROOT = "/console"
PAGE_PATH = re.compile(r"[a-z]*|runs/[^/]{1,100}")  # the page itself finds out which page it shows
GZIP = re.compile(r"\bgzip\b(?!\s*;\s*q=0(\.0*)?\s*(,|$))")  # accepted by `Accept-Encoding`
FOR_EVER = "public, max-age=31536000, immutable"  # a path with a version never gets other content
# The pages have no inline script or style, and load nothing from elsewhere. Trusted Types forbid to make HTML
# of text, so that no text of a model, tool or user becomes code.
POLICY = "; ".join(
    [
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' data:",
        "connect-src 'self'",
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    ]
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "Vary": "Accept-Encoding",
    "X-Content-Type-Options": "nosniff",
}


def is_of_console(request: Request) -> bool:
    """Whether a request is for the console's files, or leads there."""
    path = path_of(request.scope)
    return path == ROOT or path.startswith(f"{ROOT}/") or (path == "/" and _is_browser(request))


class Console:
    """The routes of the console. All its links are relative, so it works below any prefix."""

    def __init__(self) -> None:
        self._assets = Assets()

    @property
    def routes(self) -> list[Route]:
        return [
            Route("/", self.lead),
            Route(ROOT, self.lead),
            Route(f"{ROOT}/static/{{version}}/{{path:path}}", self.read_file),
            Route(f"{ROOT}/{{path:path}}", self.read_page),
        ]

    async def lead(self, request: Request) -> Response:
        """Send a browser to the console. A client that does not ask for HTML finds nothing at `/`."""
        if path_of(request.scope) == "/" and not _is_browser(request):
            raise HTTPException(404)
        return Response(status_code=307, headers={"Location": "console/", "Cache-Control": "no-cache"})

    async def read_page(self, request: Request) -> Response:
        path = request.path_params["path"]
        if not PAGE_PATH.fullmatch(path):
            raise HTTPException(404)
        return _answer(request, self._assets.page(path), "no-cache")

    async def read_file(self, request: Request) -> Response:
        """A file of this version, or, for a tab of another release, the file as it is now."""
        asset = self._assets.files.get(request.path_params["path"])
        if asset is None:
            raise HTTPException(404)
        known = request.path_params["version"] == self._assets.version
        return _answer(request, asset, FOR_EVER if known else "no-cache")


def _is_browser(request: Request) -> bool:
    return prefers(request, "text/html", "application/json")


def _answer(request: Request, asset: Asset, caching: str) -> Response:
    headers = {**HEADERS, "ETag": asset.etag}
    if has_already(request, asset.etag):
        response = Response(status_code=304, headers=headers)
    elif GZIP.search(request.headers.get("accept-encoding", "")):
        headers["Content-Encoding"] = "gzip"
        response = Response(asset.gzipped, headers=headers, media_type=asset.media_type)
    else:
        response = Response(asset.body, headers=headers, media_type=asset.media_type)
    # Set last: browsers accept truncated headers, and must not cache such a file.
    response.headers["Cache-Control"] = caching
    return response
