"""Pages of other origins (CORS, WHATWG Fetch 3.2): those of the configuration may read the answers."""

from collections.abc import Sequence

from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware

MAX_AGE_S = 600  # how long a browser remembers that it may
ANSWER_HEADERS = ("ETag", "Location", "Retry-After", "X-Run-Id", "X-Should-Retry")


def cors(origins: Sequence[str]) -> list[Middleware]:
    """No cookies: a page logs in with a key or a ticket, which it has to have."""
    if not origins:
        return []
    return [
        Middleware(
            CORSMiddleware,
            allow_origins=origins,
            allow_methods=("GET", "HEAD", "POST", "DELETE"),
            allow_headers=("*",),  # clients add some of their own, as OpenAI's its X-Stainless-…
            expose_headers=ANSWER_HEADERS,
            max_age=MAX_AGE_S,
        )
    ]
