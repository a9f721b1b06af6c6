"""What becomes of a run when the client that follows it goes away."""

import asyncio
from typing import Literal

from runstore.core.errors import LogUnavailable, RunDeleted, RunNotFound, RunPurged
from runstore.store.runs import RunStore

RETRY_S = 1.0  # while the log takes no writes

OnDisconnect = Literal["continue", "cancel"]
CLIENT_DISCONNECT = "client_disconnect"  # the reason of such a stop request


async def cancel_run(store: RunStore, run_id: str, user_id: str) -> None:
    """Ask a run to stop because its client has gone; waits until the log takes the request."""
    while True:
        try:
            await store.stop(run_id, by=user_id, reason=CLIENT_DISCONNECT)
        except (RunNotFound, RunDeleted, RunPurged):
            return
        except LogUnavailable:
            await asyncio.sleep(RETRY_S)
        else:
            return
