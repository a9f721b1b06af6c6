"""The client's records, beside those of the server."""

import pytest
from msgspec import Struct

from runstore.client import records
from runstore.http.native import forks, inputs, tickets
from runstore.http.native import records as served
from runstore.http.native.included import Included


@pytest.mark.parametrize(
    ("read", "sent"),
    [
        (records.RunRecord, served.RunRecord),
        (records.PendingRecord, served.PendingRecord),
        (records.InputRecord, inputs.InputRecord),
        (records.ForkedRun, forks.ForkedRun),
        (records.Ticket, tickets.TicketAnswer),
    ],
)
def test_the_client_reads_every_field_that_the_server_sends(read: type[Struct], sent: type[Struct]) -> None:
    asked_for = set(Included.__struct_fields__)  # fields that the client does not ask for
    assert set(read.__struct_fields__) == set(sent.__struct_fields__) - asked_for
