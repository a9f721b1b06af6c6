"""Access to a file, by its mode."""

from pathlib import Path


def is_open_to_others(path: Path | str) -> bool:
    """Whether the mode gives others than the owner any right; False if the file does not exist."""
    try:
        return bool(Path(path).stat().st_mode & 0o077)
    except FileNotFoundError:
        return False
