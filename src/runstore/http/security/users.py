"""The users of the API."""

from msgspec import Struct
from starlette.requests import Request

from runstore.core.names import MAX_NAME, check_text
from runstore.core.run import Actor

SCOPE_KEY = "runstore.login"
ADMIN = "admin"
AUDITOR = "auditor"
APPROVER = "approver"


class User(Struct, frozen=True):
    """A person or a program. A `workspaces` member may read the runs of that workspace.

    With the role `approver` such a member may answer their questions, too.
    """

    user_id: str
    roles: frozenset[str] = frozenset()
    workspaces: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        for name in (self.user_id, *self.workspaces):
            if not 0 < len(name) <= MAX_NAME:
                raise ValueError(f"the name of a user or workspace must have 1 to {MAX_NAME} characters")
            check_text(name, "the name of a user or workspace")  # a proxy may have copied it from the request

    @property
    def admin(self) -> bool:
        return ADMIN in self.roles

    @property
    def approver(self) -> bool:
        return APPROVER in self.roles

    @property
    def changes(self) -> bool:
        """Whether the user may change anything: auditors may not, unless they are admins as well."""
        return self.admin or AUDITOR not in self.roles

    @property
    def reads_all(self) -> bool:
        """Whether the user may read every run."""
        return not self.roles.isdisjoint((ADMIN, AUDITOR))


LOCAL = User("local", frozenset({ADMIN}))  # any client of the loopback address while no keys exist


class Login:
    """The login of a request, and its user."""

    def __init__(
        self, user: User, *, key_id: str | None = None, run_ids: frozenset[str] = frozenset()
    ) -> None:
        self.user = user
        self.key_id = key_id  # of the API key in the request
        self.run_ids = run_ids  # that this login may read, of any owner

    @property
    def actor(self) -> Actor:
        """The user and the key that act with this login."""
        return Actor(self.user.user_id, self.key_id)

    @property
    def known(self) -> bool:
        """Whether it says who the user is: without keys and a login function, anyone is `local`."""
        return self.user is not LOCAL

    async def still_valid(self) -> bool:
        """Whether the same request would be accepted now; an open stream checks this every few seconds."""
        return True


def login_of(request: Request) -> Login:
    login: Login = request.scope[SCOPE_KEY]
    return login
