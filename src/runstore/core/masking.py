"""Removes keys from foreign texts, such as a provider's error. Pure, and linear in the text's length."""

import re

MASK = "***"
MAX_TEXT = 65_536  # characters of a text that are kept

_VALUE = r"""(?:(?<=["'])[^"'\r\n]{4,}|[^\s"',;)}\]]{4,})"""
_SEPARATOR = r"""\\?["']?\s{0,3}(?:[:=]|provided:?)\s{0,3}\\?["']?(?:(?:bearer|basic)\s+)?"""
_PROSE = r"(?<=\s)[a-z]+\s+[a-z]"  # "token: unexpected end"
_NAMED = re.compile(  # a name that stands for a secret, and its value
    rf"""(?ix)
    ((?:passw(?:or)?d|passphrase|passcode|pwd|authorization|api[\s_-]?key
        |(?:access|account|encryption|master|private|signing|subscription)[_-]?key)s?[\w-]{{0,20}}{_SEPARATOR})
    {_VALUE}
    | ((?:secret|token|credential|jwt|(?<![a-z])auth(?![a-z]))s?[\w-]{{0,20}}{_SEPARATOR})
    (?!\d+\b|{_PROSE}){_VALUE}
    | (cookies?{_SEPARATOR})
    (?!{_PROSE}){_VALUE}(?:;\s{{0,3}}[^\s"',;)}}\]]+)*
    """
)
_SHAPED = re.compile(  # keys that are recognisable by their form
    r"""(?x)
    \b(?:sk|pk|rk|ak|gsk|xai|pplx|hf|ghp|gho|ghs|glpat|xox[abprs]|rs|whsec)[-_][A-Za-z0-9][A-Za-z0-9_*-]{5,}
    | \b(?:AKIA|ASIA)[A-Z0-9]{12,}
    | \bAIza[A-Za-z0-9_-]{20,}
    | \beyJ[A-Za-z0-9_-]{4,}(?:\.[A-Za-z0-9_-]+)*
    | (?<=[Bb]earer\ )[^\s"',;]{4,}
    | (?<=[?&])(?i:key|code|sig|signature|token|auth|pass|x-[a-z]{1,9}-signature)=[^&\s"']{4,}
    | -----BEGIN\ (?:[A-Z]{1,9}\ ){0,2}PRIVATE\ KEY-----[^-]*(?:-----END\ [A-Z\ ]{1,40}-----)?
    """
)
# Up to the last "@": a password may hold "/" and "@". A user alone may be a token.
_CREDENTIALS = re.compile(r"(?<=://)(?:[^/@:\s]*:\S*|[^/@\s]+)@")
_UNBROKEN = re.compile(r"\S+")
_LONG = re.compile(r"[A-Za-z0-9_+/-]{32,}={0,2}")
_RANDOM = (re.compile("[a-z]"), re.compile("[A-Z]"), re.compile("[0-9]"))  # a key has all of them


def without_keys(text: str) -> str:
    """The text, or the start of a long one, with `***` in place of anything like a key or a password."""
    if len(text) > MAX_TEXT:
        start = text[:MAX_TEXT].rsplit(maxsplit=1)[0]  # half a key might not look like one
        return f"{_masked(start)} … ({len(text) - len(start):,} more characters)"
    return _masked(text)


def without_credentials(text: str, mask: str = MASK) -> str:
    """The text without the users and passwords of URLs."""

    def masked(run: re.Match[str]) -> str:
        head, at, tail = run[0].rpartition("@")  # the pattern guarantees an "@"
        return _CREDENTIALS.sub(f"{mask}@", head + at) + tail if at else run[0]

    return _UNBROKEN.sub(masked, text) if "://" in text else text


def _masked(text: str) -> str:
    text = _SHAPED.sub(MASK, without_credentials(text))
    text = _NAMED.sub(lambda found: f"{found[1] or found[2] or found[3]}{MASK}", text)
    return _LONG.sub(lambda found: MASK if _is_random(found[0]) else found[0], text)


def _is_random(run: str) -> bool:
    """Whether a long run of characters is a key, and not a path, whose parts mostly have one case."""
    parts = [part for part in run.split("/") if part]
    mixed = sum(part[1:].lower() != part[1:] and part.upper() != part for part in parts)
    return all(kind.search(run) for kind in _RANDOM) and 2 * mixed >= len(parts)
