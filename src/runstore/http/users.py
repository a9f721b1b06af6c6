"""Who is asking. Without keys the server is bound to loopback, and its user is `local`, an admin."""

from msgspec import Struct
from starlette.requests import Request


class User(Struct, frozen=True):
    user_id: str
    admin: bool = False


LOCAL = User("local", admin=True)


def user_of(request: Request) -> User:
    return LOCAL
