"""Serves the console's files.

They hold no data of runs, so they need no login; the API that they call does.
"""

import re

from starlette.requests import Request
from starlette.responses import Response

from runstore.http.console.assets import Asset, Assets
from runstore.http.errors import NothingThere
from runstore.http.operations import Call, Operation
from runstore.http.requests import has_already, prefers
from runstore.http.security.auth import Authenticator

ROOT = "/console"
PAGE_PATH = re.compile(r"[a-z]*|runs/[^/]{1,100}")  # the page itself finds out which page it shows
GZIP = re.compile(r"\bgzip\b(?!\s*;\s*q=0(\.0*)?\s*(,|$))")  # accepted by `Accept-Encoding`
IMMUTABLE = "public, max-age=31536000, immutable"  # a path with a version never gets other content
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


class ConsoleRoutes:
    """The routes of the console, which the OpenAPI document leaves out.

    All its links are relative, so it works below any prefix.
    """

    tag = "console"

    def __init__(self, authenticator: Authenticator) -> None:
        self._assets = Assets()
        self._authenticator = authenticator

    @Operation("GET", "/", strict=False, open=True)
    async def lead_browser(self, call: Call[None]) -> Response:
        """Send a browser to the console. Another client finds nothing at `/`."""
        if not prefers(call.request, "text/html", "application/json"):
            await self._authenticator.admit(call.request.scope)
            raise NothingThere(call.request)
        return _lead()

    @Operation("GET", ROOT, strict=False, open=True)
    async def lead(self, call: Call[None]) -> Response:
        """Send a client to the console."""
        return _lead()

    @Operation("GET", f"{ROOT}/static/{{version}}/{{path:path}}", strict=False, open=True)
    async def read_file(self, call: Call[None]) -> Response:
        """A file of this version, or, for a tab of another release, the file as it is now."""
        parameters = call.request.path_params
        asset = self._assets.files.get(parameters["path"])
        if asset is None:
            raise NothingThere(call.request)
        known = parameters["version"] == self._assets.version
        return _answer(call.request, asset, IMMUTABLE if known else "no-cache")

    @Operation("GET", f"{ROOT}/{{path:path}}", strict=False, open=True)
    async def read_page(self, call: Call[None]) -> Response:
        """A page of the console."""
        path = call.request.path_params["path"]
        if not PAGE_PATH.fullmatch(path):
            raise NothingThere(call.request)
        return _answer(call.request, self._assets.page(path), "no-cache")


def _lead() -> Response:
    return Response(status_code=307, headers={"Location": "console/", "Cache-Control": "no-cache"})


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
