"""Names from outside, of users, sessions, workspaces and agents, which databases hold as text."""

from runstore.core.errors import InvalidName

MAX_NAME = 255  # characters of a name
NUL_ESCAPE = rb"\u0000"  # the character NUL in JSON


def check_name(name: str | None, what: str) -> None:
    """Refuse a name that a database cannot hold. `what` names it in the message; None is allowed.

    Raises:
        InvalidName: the name is empty, too long, or not storable text.
    """
    if name is None:
        return
    if not 0 < len(name) <= MAX_NAME:
        raise InvalidName(f"{what} must have 1 to {MAX_NAME} characters, not {len(name):,}")
    check_text(name, what)


def check_text(text: str, what: str) -> None:
    """Refuse a text that no database can hold, and that therefore matches no name.

    Raises:
        InvalidName: the text holds NUL or is not valid Unicode.
    """
    if "\0" in text:
        raise InvalidName(f"{what} must not hold the character NUL")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InvalidName(f"{what} must be text that is UTF-8, without half of a surrogate pair") from error


def holds_nul(json: bytes) -> bool:
    """Whether a string in this JSON holds the character NUL, which JSON always escapes."""
    return NUL_ESCAPE in json and NUL_ESCAPE in json.replace(rb"\\", b"")
