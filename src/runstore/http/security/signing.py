"""Tickets: one run's stream for clients that cannot send headers, such as a browser's EventSource.

A ticket is `PAYLOAD.MAC`, both base64url: its content, and the HMAC-SHA256 (RFC 2104) of that under the
server's secret. It contains no secret of its user, but its bearer can follow the run until it expires.
"""

import hashlib
import hmac
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Sequence

import msgspec
from msgspec import Struct


class TicketScope(Struct, frozen=True):
    """The stream that a ticket opens. `name`: how the ticket names its runs."""

    name: str
    run_ids: frozenset[str]


def of_run(run_id: str) -> TicketScope:
    """The stream of one run."""
    return TicketScope(run_id, frozenset({run_id}))


def answers_of(run_id: str) -> TicketScope:
    """The questions of one run, and their answers."""
    return TicketScope(f"answer:{run_id}", frozenset({run_id}))


def of_runs(run_ids: Sequence[str]) -> TicketScope:
    """One stream of several runs; without ids, of all the user's runs."""
    name = f"runs:{hashlib.sha256(','.join(run_ids).encode()).hexdigest()}" if run_ids else "own"
    return TicketScope(name, frozenset(run_ids))


class Ticket(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`run_id`: the run, or the name of several. `expires_at`: ms since 1970.

    `key_id`: the API key that requested it; the ticket ends with that key.
    """

    run_id: str
    user_id: str
    key_id: str | None
    expires_at: int


class TicketSigner:
    """Makes and reads tickets. Every process on one database has the same `secret`."""

    def __init__(self, secret: bytes) -> None:
        self._secret = secret

    def sign(self, ticket: Ticket) -> str:
        payload = _encode(msgspec.json.encode(ticket))
        return f"{payload}.{_encode(self._mac(payload))}"

    def read(self, text: str) -> Ticket | None:
        """The ticket, if its signature is valid."""
        payload, _, mac = text.partition(".")
        if not hmac.compare_digest(_encode(self._mac(payload)).encode(), mac.encode()):
            return None
        return msgspec.json.decode(urlsafe_b64decode(payload + "=" * (-len(payload) % 4)), type=Ticket)

    def _mac(self, payload: str) -> bytes:
        return hmac.digest(self._secret, payload.encode(), hashlib.sha256)


def _encode(data: bytes) -> str:
    return urlsafe_b64encode(data).rstrip(b"=").decode()


def run_id_of(text: str) -> str:
    """The run of `RUN_ID` or `RUN_ID:SEQ`, as a stream of several runs names it."""
    return text.partition(":")[0].lower()
