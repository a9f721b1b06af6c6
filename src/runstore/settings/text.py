"""Reads the text files of a configuration."""

from pathlib import Path

MAX_CHARACTERS = 1 << 22  # characters of a file; a device may have no end


def read_text(path: Path) -> str:
    """The text of a file, without the byte order mark with which some editors begin it.

    Raises:
        OSError
        ValueError: it is no UTF-8, or too large.
    """
    with path.open(encoding="utf-8-sig") as file:
        text = file.read(MAX_CHARACTERS + 1)
    if len(text) > MAX_CHARACTERS:
        raise ValueError(f"it has more than {MAX_CHARACTERS:,} characters")
    return text
