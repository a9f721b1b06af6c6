"""Images in data URLs (RFC 2397), as clients really write them. Pure."""

from base64 import b64decode
from urllib.parse import unquote

FORMATS = {
    "png": "png", "x-png": "png", "jpeg": "jpeg", "jpg": "jpeg", "pjpeg": "jpeg", "gif": "gif",
    "webp": "webp",
}  # fmt: skip
URL_SAFE = str.maketrans("-_", "+/")  # RFC 4648, section 5


def read_image(url: str) -> tuple[str, str]:
    """The format of an image, and its bytes in standard base64.

    Letters of the scheme and the type may be upper case, the type may have parameters, and the base64 may be
    the URL-safe one, hold white space or escapes, and lack its padding.

    Raises:
        ValueError: it is none; the message says why.
    """
    header, comma, data = url.strip().partition(",")
    scheme, _, rest = header.partition(":")
    media_type, *parameters = [part.strip().lower() for part in rest.split(";")]
    kind, _, subtype = media_type.partition("/")
    if scheme.lower() != "data" or not comma or "base64" not in parameters:
        raise ValueError("an image must be a data: URL in base64, as data:image/png;base64,iVBORw0KGgo=")
    if kind != "image" or subtype not in FORMATS:
        raise ValueError(f"an image must be a png, jpeg, gif or webp, not {media_type[:50]!r}")
    return FORMATS[subtype], _base64(data)


def _base64(data: str) -> str:
    if "%" in data:
        data = unquote(data)
    bare = "".join(data.split()).translate(URL_SAFE).rstrip("=")
    padded = bare + "=" * (-len(bare) % 4)
    if not bare:
        raise ValueError("the data: URL holds no image")
    try:
        b64decode(padded, validate=True)
    except ValueError as error:
        raise ValueError(f"the image is no base64: {error}") from error
    return padded
