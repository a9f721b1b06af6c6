"""A process that rebuilds or advances a projection, slowly, until it is killed: `python -m … URL COMMAND`."""

import sys
import time
from collections.abc import Sequence

from sqlalchemy import Connection

from runstore import open_projections
from runstore.core.codec import RecordedEvent
from runstore.projections import advance, filling
from tests.projections.examples import Totals


class Slow(Totals):
    """Each batch takes a while, in the middle of its transaction."""

    def apply(self, connection: Connection, events: Sequence[RecordedEvent]) -> None:
        super().apply(connection, events)
        print("applied", len(events), flush=True)
        time.sleep(0.05)


def main(url: str, command: str) -> None:
    advance.FIRST_EVENTS = advance.FEW_EVENTS = advance.MOST_EVENTS = 5
    advance.LAST_EVENTS = filling.LAST_EVENTS = 5
    with open_projections(url, projections=[Slow()]) as projections:
        if command == "rebuild":
            projections.rebuild("totals")
        else:
            projections.run(["totals"])
    print("done", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
