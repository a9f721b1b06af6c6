"""Names that come from outside: of users, sessions, workspaces, agents. Databases hold them as texts."""

from runstore.core.errors import InvalidName

MAX_NAME = 255  # characters of a name
NUL_ESCAPE = rb"\u0000"  # as JSON has the character NUL


def check_name(name: str | None, what: str) -> None:
    """Refuse a name that a database cannot hold. `what`: how the message names it; None is no name.

    Raises:
        InvalidName
    """
    if name is None:
        return
    if not 0 < len(name) <= MAX_NAME:
        raise InvalidName(f"{what} must have 1 to {MAX_NAME} characters, not {len(name):,}")
    check_text(name, what)


def check_text(text: str, what: str) -> None:
    """Refuse a text that no name can be equal to, since no database can hold it.

    Raises:
        InvalidName
    """
    if "\0" in text:
        raise InvalidName(f"{what} must not hold the character NUL")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InvalidName(f"{what} must be text that is UTF-8, without half of a surrogate pair") from error


def holds_nul(json: bytes) -> bool:
    """Whether a string of this JSON holds the character NUL, which it can only do escaped."""
    return NUL_ESCAPE in json and NUL_ESCAPE in json.replace(rb"\\", b"")
