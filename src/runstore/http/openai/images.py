"""Images in base64, mostly in data URLs (RFC 2397), in the variants that clients write. Pure."""

import re
from base64 import b64decode
from contextlib import suppress

from runstore.core.content import format_of

MAX_HEADER_CHARS = 4_096  # characters before the data: a type, and perhaps a file's name of up to 255
FORMATS = {
    "png": "png", "x-png": "png", "jpeg": "jpeg", "jpg": "jpeg", "pjpeg": "jpeg", "gif": "gif",
    "webp": "webp",
}  # fmt: skip
SIGNATURE_BYTES = 16  # first bytes of an image, which show its format
_QUOTED = r'"(?:[^"\\]|\\.)*+"'  # a parameter's value, in which `,` and `;` are ordinary (RFC 2045, 5.1)
_HEADER = re.compile(rf'(?:[^,"]|{_QUOTED})*+,', re.DOTALL)
_PARAMETER = re.compile(rf'(?:\A|;)((?:[^;"]|{_QUOTED})*+)', re.DOTALL)
_AGAIN = re.compile(r"\s*data:[^,]*;\s*base64\s*,", re.IGNORECASE)
_WHITE_SPACE = b" \t\n\r\f\v"
_STANDARD = bytes.maketrans(b"-_", b"+/")  # URL-safe to standard alphabet (RFC 4648, section 5)
# All characters of base64 that URLs escape.
_ESCAPES = {b"%%%02X" % byte: bytes([byte]) for byte in b"+/=-_" + _WHITE_SPACE}
_ESCAPES |= {escape.lower(): byte for escape, byte in _ESCAPES.items()}


def read_image(url: str) -> tuple[str, str]:
    """The format of an image, and its bytes in standard base64.

    The scheme and the type may be in upper case, the type may have parameters, and the base64 may be
    URL-safe, hold white space or escapes, and lack its padding. A URL may be as long as a body, so each step
    is one pass of the interpreter's own loops.

    Raises:
        ValueError: the URL is not an image; the message gives the reason.
    """
    url = url.strip()
    beginning = url[:MAX_HEADER_CHARS]
    if quoted := _HEADER.match(beginning):
        header, comma = beginning[: quoted.end() - 1], ","
    else:
        header, comma, _ = beginning.partition(",")
    data = url[len(header) + 1 :]
    scheme, _, rest = header.partition(":")
    parts = _PARAMETER.findall(rest) if quoted else rest.split(";")
    media_type, *parameters = [part.strip().lower() for part in parts]
    if scheme.lower() != "data" or not comma or "base64" not in parameters:
        raise ValueError("an image must be a data: URL in base64, as data:image/png;base64,iVBORw0KGgo=")
    return read_source(media_type, data)


def read_source(media_type: str, data: str) -> tuple[str, str]:
    """The format of an image of a media type, and its bytes in standard base64.

    Clients write a missing type in many ways (`image`, `image/*`, `undefined`), or that of the place where
    they have it from. So the first bytes decide where the type names no known format. Others put the header
    of a data URL before the data a second time.

    Raises:
        ValueError: it is not an image; the message gives the reason.
    """
    media_type = media_type.strip().lower()
    kind, _, subtype = media_type.partition("/")
    if again := _AGAIN.match(data, 0, MAX_HEADER_CHARS):
        data = data[again.end() :]
    if kind == "image" and subtype in FORMATS:
        return FORMATS[subtype], _base64(data)[0]
    with suppress(ValueError):
        encoded, beginning = _base64(data)
        if format := format_of(beginning):
            return format, encoded
    raise ValueError(f"an image must be a png, jpeg, gif or webp, not {media_type[:50]!r}")


def _base64(data: str) -> tuple[str, bytes]:
    """The data in standard base64, and its first bytes."""
    encoded = data.encode()
    if b"%" in encoded:
        for escape, byte in _ESCAPES.items():
            encoded = encoded.replace(escape, byte)
    bare = encoded.translate(_STANDARD, _WHITE_SPACE).rstrip(b"=")
    padded = bare + b"=" * (-len(bare) % 4)
    if not bare:
        raise ValueError("there is no image in the data")
    try:
        decoded = b64decode(padded, validate=True)
    except ValueError as error:
        raise ValueError(f"the image is not base64: {error}") from error
    return padded.decode(), decoded[:SIGNATURE_BYTES]
