"""Where images and videos come from: paths, `file:`, http(s) and `data:` URLs, `BytesIO`; one reader for both kinds.

Sources come from strangers. Only regular files and http(s) are read, an URL is fetched here and nowhere else, and what
arrives is bounded.
"""

from __future__ import annotations

import base64
import binascii
import errno
import re
import stat
from io import BytesIO
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from .checks import quote

# Seconds that a server may be silent, and bytes that it may send.
DOWNLOAD_SECONDS, DOWNLOAD_BYTES = 10, 1 << 28

# An URL's scheme; one letter is a drive of Windows.
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):")


def label(source: Any) -> str:
    """What an error calls a source."""
    return quote(str(source)) if isinstance(source, (str, Path)) else f"this {type(source).__name__}"


def locate(source: str | Path | BytesIO) -> Path | bytes:
    """A regular file, or the content that a URL or a buffer holds.

    Raises:
        OSError: there is no such file, or the server cannot be reached.
        ValueError: the source is of a form that is not read, or holds nothing; the text is without the source.
    """
    if isinstance(source, BytesIO):
        return source.getvalue()
    if isinstance(source, Path):
        return _regular(source)
    scheme = match.group(1).lower() if (match := _SCHEME.match(source)) else ""
    if scheme == "data":
        return _from_data(source)
    if scheme in ("http", "https"):
        return _downloaded(source)
    if scheme == "file":
        parts = urlsplit(source)
        if parts.netloc not in ("", "localhost"):
            raise ValueError(f"a file: URL names a file of this machine, not of {quote(parts.netloc)}")
        # As it stands first: such URLs are written by hand too, with % and # that mean themselves.
        plain = Path(re.sub(r"^file:(//(localhost)?(?=/))?", "", source, flags=re.IGNORECASE).removeprefix("//"))
        return _regular(plain if plain.exists() else Path(unquote(parts.path)))
    if scheme and source[len(scheme) :].startswith("://"):
        raise ValueError(f"URLs of {quote(scheme)} are not read; use http(s), file or data, or a path")
    return _regular(Path(source))


def _regular(path: Path) -> Path:
    mode = path.stat().st_mode
    if not stat.S_ISREG(mode):
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, "it is a directory")
        raise OSError(errno.EINVAL, "it is a pipe or a device, not a file")
    return path


def _from_data(uri: str) -> bytes:
    _, comma, data = uri.partition(",")
    if not comma:
        raise ValueError("this data URI has no comma before its data")
    try:
        return base64.b64decode(unquote(data) if "%" in data else data)
    except (binascii.Error, ValueError) as error:
        raise ValueError(f"its base64 is damaged: {error}") from error


def _downloaded(url: str) -> bytes:
    import requests

    content = bytearray()
    try:
        with requests.get(url, stream=True, timeout=DOWNLOAD_SECONDS) as response:
            if not response.ok:
                raise ValueError(f"the server answered {response.status_code} {response.reason}")
            for part in response.iter_content(1 << 16):
                content += part
                if len(content) > DOWNLOAD_BYTES:
                    raise ValueError(f"it has more than {DOWNLOAD_BYTES:,} bytes")
    except requests.Timeout:
        raise ValueError(f"the server was silent for {DOWNLOAD_SECONDS} seconds") from None
    except requests.ConnectionError as error:  # its own words are the URL again, and addresses of objects
        raise ValueError(f"the server cannot be reached, or broke off{_reason(error)}") from None
    return bytes(content)


def _reason(error: BaseException) -> str:
    """In brackets, what the operating system said of a connection that failed; five exceptions stand around it."""
    cause: BaseException | None = error
    said = ""
    while cause is not None:
        if isinstance(cause, OSError) and cause.strerror:
            said = cause.strerror
        cause = cause.__cause__ or cause.__context__
    return f" ({said[:1].lower()}{said[1:200]})" if said else ""
