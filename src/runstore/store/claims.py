"""The slot of a new run in this process."""

from typing import Protocol

from runstore.core.codec import EncodedEvent


class Claims(Protocol):
    """The slots of this process's worker, for runs that start with the append that queues them."""

    def claim(self, run_id: str) -> EncodedEvent | None:
        """Keep a slot for a new run: its `lifecycle.started`, to be appended with its `lifecycle.queued`.

        None: there is no slot, other runs wait for one, or this is not the server's loop.
        """

    def give_back(self, run_id: str) -> None:
        """The append is over: free the slot, unless the run has begun."""


class NoClaims:
    """The port `Claims` of a process without a worker."""

    def claim(self, run_id: str) -> None:
        """See `Claims.claim`."""

    def give_back(self, run_id: str) -> None:
        """See `Claims.give_back`."""
