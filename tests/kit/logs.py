"""What processes of tests have logged."""

SHOWN = 40  # lines


def assert_no_traceback(log: str) -> None:
    """Show what was logged around the first traceback; an `assert` would cut it out of a long log."""
    before, found, after = log.partition("Traceback")
    lines = [*before.splitlines()[-3:], *(found + after).splitlines()[:SHOWN]]
    assert not found, "\n".join(lines)
