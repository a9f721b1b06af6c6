"""The logs of processes that tests start."""

SHOWN = 40  # lines


def assert_no_traceback(log: str) -> None:
    """Show the lines around the first traceback; an `assert` would cut them out of a long log."""
    before, found, after = log.partition("Traceback")
    lines = [*before.splitlines()[-3:], *(found + after).splitlines()[:SHOWN]]
    assert not found, "\n".join(lines)
