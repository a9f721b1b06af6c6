"""The head of a request, read as strictly as RFC 9112 allows: a proxy may have read another request in it."""

from http import HTTPStatus
from typing import Any

import httptools

from runstore.http.errors import error_response

KNOWN_VERSIONS = frozenset({"1.0", "1.1"})
SCHEMES = frozenset({b"http", b"https"})  # schemes of a target in absolute form
ONCE = ("Host", "Authorization")  # headers refused if repeated: a proxy may have checked the other one
UPGRADE_HEADERS = frozenset({b"upgrade", b"http2-settings"})

Headers = list[tuple[bytes, bytes]]  # names in lower case


class Refused(Exception):
    """The client sent a request that the server does not accept."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code

    @property
    def answer(self) -> bytes:
        body = bytes(error_response(self.status, self.code, str(self)).body)
        lines = [
            f"HTTP/1.1 {self.status} {HTTPStatus(self.status).phrase}",
            "Content-Type: application/json",
            f"Content-Length: {len(body)}",
            "Connection: close",
        ]
        return "\r\n".join([*lines, "", ""]).encode() + body


def malformed(message: str) -> Refused:
    return Refused(400, "malformed_request", message)


def check_head(version: str, headers: Headers) -> None:
    """Raises Refused."""
    names = [name for name, _ in headers]
    if version not in KNOWN_VERSIONS:
        raise malformed(f"HTTP/{version} is not supported; use HTTP/1.1")
    for name in ONCE:
        if names.count(name.lower().encode()) > 1:
            raise malformed(f"a request may have one `{name}` header, not several")
    if b"transfer-encoding" in names:
        coding = next(value for name, value in headers if name == b"transfer-encoding")
        if coding.strip().lower() != b"chunked":
            raise malformed("the only supported transfer coding is `chunked`")
        if version == "1.0":
            raise malformed("HTTP/1.0 has no `Transfer-Encoding`")


def take_host_of_target(url: bytes, headers: Headers) -> bytes:
    """The target as a path. The host of one in absolute form replaces the header's (RFC 9112, 3.2.2).

    Raises Refused.
    """
    if b"#" in url:
        raise malformed("the target must not have a fragment")
    if url.startswith(b"/"):
        return url
    target: Any = httptools.parse_url(url)  # its stub knows no part that is missing
    if target.host is None:
        raise malformed("the target must be a path, or a URL with a host")
    if target.schema.lower() not in SCHEMES:
        raise malformed("the target's scheme must be http or https")
    if target.userinfo is not None or b"@" in url.split(b"/")[2]:
        raise malformed("the target must not hold a user's name or password")
    host = b"[%b]" % target.host if b":" in target.host else target.host
    host = host if target.port is None else b"%b:%d" % (host, target.port)
    headers[:] = [each for each in headers if each[0] != b"host"]
    headers.append((b"host", host))
    path: bytes = target.path or b"/"
    return path if target.query is None else path + b"?" + target.query


def without_upgrade(method: bytes, url: bytes, version: str, headers: Headers) -> bytes:
    """The head again, to continue in its version (RFC 9110, 7.8). Raises Refused."""
    if method == b"CONNECT":
        raise malformed("this server is not a proxy: it does not take CONNECT")
    head = [b"%b %b HTTP/%b\r\n" % (method, url, version.encode())]
    for name, value in headers:
        if name == b"connection":
            options = [option.strip() for option in value.split(b",")]
            value = b",".join(each for each in options if each.lower() not in UPGRADE_HEADERS)
        if name not in UPGRADE_HEADERS:
            head.append(b"%b: %b\r\n" % (name, value))
    return b"".join([*head, b"\r\n"])
