"""The users of the API."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import structlog
from msgspec import Struct
from starlette.requests import Request

from runstore.core.errors import LogUnavailable
from runstore.core.names import MAX_NAME, check_text
from runstore.core.run import Actor

CHECK_S = 2.0  # seconds between two checks of the login of open answers
SCOPE_KEY = "runstore.login"
ADMIN = "admin"
AUDITOR = "auditor"
APPROVER = "approver"

log = structlog.get_logger(__name__)


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


Ends = dict[object, Callable[[], None]]  # functions to call when a login ends, by the open answer


class Login:
    """The login of a request, and its user. Requests with the same login may share it."""

    def __init__(
        self, user: User, *, key_id: str | None = None, run_ids: frozenset[str] = frozenset()
    ) -> None:
        self.user = user
        self.key_id = key_id  # id of the API key in the request
        self.run_ids = run_ids  # runs of any owner that this login may read
        self._open: dict[asyncio.AbstractEventLoop, tuple[Ends, asyncio.Task[None]]] = {}

    @property
    def actor(self) -> Actor:
        """The user and the key that act with this login."""
        return Actor(self.user.user_id, self.key_id)

    @property
    def known(self) -> bool:
        """Whether it says who the user is: without keys and a login function, anyone is `local`."""
        return self.user is not LOCAL

    async def still_valid(self) -> bool:
        """Whether the same request would be accepted now."""
        return True

    @contextmanager
    def while_valid(self, ended: Callable[[], None]) -> Iterator[None]:
        """Call `ended` if the login ends before the end of the block.

        It is checked every CHECK_S seconds, once for all answers that an event loop has open.
        """
        loop = asyncio.get_running_loop()
        if loop not in self._open:
            first: Ends = {}
            self._open[loop] = first, asyncio.create_task(self._check(first))
        ends, checking = self._open[loop]
        ends[answer := object()] = ended
        try:
            yield
        finally:
            del ends[answer]
            if not ends:
                del self._open[loop]
                checking.cancel()

    async def _check(self, ends: "Ends") -> None:
        while True:
            await asyncio.sleep(CHECK_S)
            try:
                valid = await self.still_valid()
            except LogUnavailable:
                valid = True  # the answer may go on, until the database can be asked again
            except Exception:
                log.exception("login_check_failed")
                valid = False
            if not valid:
                for ended in tuple(ends.values()):
                    ended()


def login_of(request: Request) -> Login:
    login: Login = request.scope[SCOPE_KEY]
    return login
