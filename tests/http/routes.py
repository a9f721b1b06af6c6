"""The routes of the API, as the application has them."""

from typing import Any, cast

from starlette.routing import Route

from runstore.http.app import build_http


def _routes() -> list[tuple[str, str]]:
    return [
        (method, route.path)
        for route in build_http(cast(Any, None), cast(Any, None), not_ready=lambda: None).routes
        if isinstance(route, Route)
        for method in sorted(route.methods or ())
    ]


ROUTES = _routes()  # of each route its methods and its path
