"""The caller's place in a trace (W3C Trace Context, 3.2): where a run's spans belong."""

import re

from starlette.requests import Request

TRACEPARENT = re.compile(r"(?!ff)([0-9a-f]{2})-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")


def read_traceparent(request: Request) -> str | None:
    """The header `traceparent`; a wrong one is as good as none (4.3: the trace then begins here).

    Of a version that is still to come only what version 00 has is read, as 3.2.4 demands.
    """
    values = request.headers.getlist("traceparent")
    found = TRACEPARENT.match(values[0].strip()) if len(values) == 1 else None
    if found is None:
        return None
    rest = found.string[found.end() :]
    return found[0] if not rest or (found[1] != "00" and rest.startswith("-")) else None
