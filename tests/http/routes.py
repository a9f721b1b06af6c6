"""The routes of the API, as its operations declare them."""

from runstore.http.app import SURFACES

ROUTES = [  # of each route its methods and its path
    (method, path)
    for surface in SURFACES
    for path, operation in surface.operations
    for method in (["GET", "HEAD"] if operation.method == "GET" else [operation.method])
]
OPEN_PATHS = [path for surface in SURFACES for path, operation in surface.operations if operation.open]
