"""Makes text from outside safe for log lines and terminals."""

import re
from typing import Any

# C0 and C1 (ECMA-48: escape sequences, ends of lines), DEL, and marks of the direction of text (UAX 9).
CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")


def escaped(text: str, *, keep: str = "") -> str:
    """The text with `\u001b` in place of each control character except those in `keep`; valid in JSON."""
    return CONTROL.sub(lambda found: found[0] if found[0] in keep else f"\\u{ord(found[0]):04x}", text)


FORMULA = ("=", "+", "-", "@", "\t", "\r")  # text that begins so is a formula in a spreadsheet (OWASP)


def csv_cell(value: Any) -> Any:
    """A value of a CSV file, whose text no spreadsheet computes: such text gets an apostrophe in front."""
    return f"'{value}" if isinstance(value, str) and value.startswith(FORMULA) else value
