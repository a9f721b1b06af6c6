"""Who can open a file, by its mode."""

from pathlib import Path


def is_open_to_others(path: Path | str) -> bool:
    """Whether its mode lets others than its owner do anything; False when it is not there."""
    try:
        return bool(Path(path).stat().st_mode & 0o077)
    except FileNotFoundError:
        return False
