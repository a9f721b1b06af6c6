"""Logins: an API key, a ticket, or the configured login function.

Without any of them the server is bound to loopback, and everyone is the user `local`, an admin.
"""

from typing import NoReturn
from weakref import WeakValueDictionary

from starlette.requests import Request
from starlette.types import Scope

from runstore.core.errors import RunstoreError
from runstore.core.times import now_ms
from runstore.database.database import Database
from runstore.http.errors import Unauthorized
from runstore.http.security.known_keys import KnownKeys
from runstore.http.security.login_function import LoginFunction, network_of
from runstore.http.security.signing import Ticket, TicketScope, TicketSigner
from runstore.http.security.users import LOCAL, SCOPE_KEY, Login, User
from runstore.store import keys
from runstore.store.keys import ApiKey
from runstore.threads import asking

TICKET = "ticket"  # the query parameter for a ticket


class LoginFailed(RunstoreError):
    """A defect of the server, which the log shows with its cause."""


class Authenticator:
    """Identifies the sender of a request.

    Args:
        database: holds the API keys.
        tickets: reads and makes tickets.
        function: called for requests without an API key.
        exposed: other machines can reach the server, so every request needs a login.
    """

    def __init__(
        self,
        database: Database,
        tickets: TicketSigner,
        *,
        function: LoginFunction | None = None,
        exposed: bool = False,
    ) -> None:
        self.tickets = tickets
        self._keys = KnownKeys(database)
        self._function = function
        self._exposed = exposed
        self._open_login = OpenLogin(self)
        self._key_logins = WeakValueDictionary[str, KeyLogin]()  # each shared by the requests with its key

    async def required(self) -> bool:
        """Whether a login is needed; once it is, it remains so."""
        return self._exposed or self._function is not None or await self._keys.exist()

    async def admit(self, scope: Scope, stream: TicketScope | None = None) -> None:
        """Note the login of a request in its scope, for `login_of`.

        Args:
            stream: the stream that the ticket in the query must be for, instead of another login.

        Raises:
            Unauthorized: the request has no valid login.
            LogUnavailable: the database, which holds the keys, cannot be read now.
            LoginFailed: the login function has a defect.
        """
        request = Request(scope, _no_body)
        asking.set(f"address {network_of(request)}")
        try:
            if stream is not None:
                login = await self.login_by_ticket(request.query_params[TICKET], stream)
            else:
                login = await self.login(request)
        except RunstoreError:
            raise
        except Exception as error:
            raise LoginFailed("the login failed") from error
        scope[SCOPE_KEY] = login
        asking.set(login.user.user_id)

    async def login(self, request: Request) -> Login:
        """The sender of the request.

        Raises:
            Unauthorized: the request has no valid login.
            LogUnavailable: the database, which holds the keys, cannot be read now.
        """
        if not await self.required():
            return self._open_login
        token = _bearer(request)
        if token.startswith(keys.PREFIX):
            return await self._by_key(token)
        if self._function is not None:
            return await self._function.login(request)
        raise Unauthorized("an API key is needed: Authorization: Bearer KEY")

    async def ticket_holds(self, ticket: Ticket) -> bool:
        """Whether a ticket is valid: it expires with the key that requested it, if that is sooner."""
        if now_ms() >= ticket.expires_at:
            return False
        if ticket.key_id is not None:
            return await self._keys.active(ticket.key_id) is not None
        return self._function is not None or not await self.required()

    async def _by_key(self, token: str) -> Login:
        key_id = keys.key_id_of(token)
        stored = await self._keys.active(key_id) if key_id else None
        if stored is None or not stored.opens(token):
            raise Unauthorized("the API key is unknown, revoked or expired")
        return self._key_logins.setdefault(stored.key.key_id, KeyLogin(self._keys, stored.key))

    async def login_by_ticket(self, text: str, scope: TicketScope) -> Login:
        """The login of a ticket for a stream.

        Raises:
            Unauthorized: it is for another stream, or is not valid any more.
            LogUnavailable
        """
        ticket = self.tickets.read(text)
        if ticket is None or ticket.run_id != scope.name or not await self.ticket_holds(ticket):
            raise Unauthorized("the ticket is not for this run, or has expired")
        return TicketLogin(self, ticket, scope.run_ids)


class OpenLogin(Login):
    """No login is needed yet."""

    def __init__(self, authenticator: Authenticator) -> None:
        super().__init__(LOCAL)
        self._authenticator = authenticator

    async def still_valid(self) -> bool:
        return not await self._authenticator.required()


class KeyLogin(Login):
    """By an API key."""

    def __init__(self, known: KnownKeys, key: ApiKey) -> None:
        super().__init__(User(key.user_id, frozenset({key.role})), key_id=key.key_id)
        self._known = known
        self._key = key

    async def still_valid(self) -> bool:
        return await self._known.active(self._key.key_id) is not None


class TicketLogin(Login):
    """By a ticket, for one stream."""

    def __init__(self, authenticator: Authenticator, ticket: Ticket, run_ids: frozenset[str]) -> None:
        super().__init__(User(ticket.user_id), key_id=ticket.key_id, run_ids=run_ids)
        self._authenticator = authenticator
        self._ticket = ticket

    async def still_valid(self) -> bool:
        return await self._authenticator.ticket_holds(self._ticket)


def _bearer(request: Request) -> str:
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""


async def _no_body() -> NoReturn:
    """The login comes first, so that strangers cannot make the server take in bodies."""
    raise RuntimeError(
        "`authenticate` gets a request without its body: it must use the headers, the path or the query"
    )
