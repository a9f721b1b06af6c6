"""Words of others, as a provider's error, without what looks like a key. Pure."""

import re

MASK = "***"
_NAMED = re.compile(  # a name that means a secret, and its value
    r"""(?ix)
    (\b[\w-]{0,40}?(?:api[\s_-]?key|apikey|access[_-]?key|secret|token|passw(?:or)?d|passphrase|authorization|credential)s?
    [\w-]{0,20}["']?\s{0,3}(?:[:=]|provided:?)\s{0,3}["']?(?:(?:bearer|basic)\s+)?)
    (?!\d+\b)([^\s"',;)}\]]{4,})
    """
)
_SHAPED = re.compile(  # keys that tell what they are
    r"""(?x)
    \b(?:sk|pk|rk|ak|gsk|xai|pplx|hf|ghp|gho|ghs|glpat|xox[abprs]|rs|whsec)[-_][A-Za-z0-9][A-Za-z0-9_*-]{5,}
    | \b(?:AKIA|ASIA)[A-Z0-9]{12,}
    | \bAIza[A-Za-z0-9_-]{20,}
    | \beyJ[A-Za-z0-9_-]{4,}(?:\.[A-Za-z0-9_-]+)+
    | (?<=[Bb]earer\ )[^\s"',;]{4,}
    """
)
_PASSWORD = re.compile(r"(?<=://)[^/@\s]+@")  # of a URL, with the user
_RANDOM = re.compile(r"\b(?=[\w+/-]*[a-z])(?=[\w+/-]*[A-Z])(?=[\w+/-]*\d)[A-Za-z0-9_+-]{32,}={0,2}")


def without_keys(text: str) -> str:
    """The text with `***` in place of what looks like a key, a token or a password."""
    text = _PASSWORD.sub(f"{MASK}@", text)
    text = _SHAPED.sub(MASK, text)
    text = _NAMED.sub(rf"\g<1>{MASK}", text)
    return _RANDOM.sub(MASK, text)
