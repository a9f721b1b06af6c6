"""Tickets: one run's stream for those who cannot send headers, as a browser's EventSource.

A ticket is `PAYLOAD.MAC`, both base64url: what it allows, and the HMAC-SHA256 (RFC 2104) of that under the
server's secret. It holds no secret of its user's, but whoever has it can follow the run until it expires.
"""

import hashlib
import hmac
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Sequence

import msgspec
from msgspec import Struct

STREAM = "/stream"  # of several runs


class Ticket(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`run_id`: the run, or the name of several. `expires_at`: ms since 1970.

    `key_id`: the API key that it was got with, whose end it shares.
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
        """The ticket, if it is one of ours."""
        payload, _, mac = text.partition(".")
        if not hmac.compare_digest(_encode(self._mac(payload)).encode(), mac.encode()):
            return None
        return msgspec.json.decode(urlsafe_b64decode(payload + "=" * (-len(payload) % 4)), type=Ticket)

    def _mac(self, payload: str) -> bytes:
        return hmac.digest(self._secret, payload.encode(), hashlib.sha256)


def name_of(run_ids: Sequence[str]) -> str:
    """What a ticket for the stream of several runs calls them; of no names, all of its user's."""
    return f"runs:{hashlib.sha256(','.join(run_ids).encode()).hexdigest()}" if run_ids else "own"


def _encode(data: bytes) -> str:
    return urlsafe_b64encode(data).rstrip(b"=").decode()


def run_id_of(text: str) -> str:
    """The run of `RUN_ID` or `RUN_ID:SEQ`, as a stream of several runs names it."""
    return text.partition(":")[0].lower()
