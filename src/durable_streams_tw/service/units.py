"""Times, sizes, paths and origins as people write them on a command line.

Every parser raises `usage.UsageError` with a sentence that says what would be right.
"""

from __future__ import annotations

import re
from typing import Final

from twisted.python.usage import UsageError

_NUMBER: Final = re.compile(r"([0-9]+(?:\.[0-9]+)?) ?([A-Za-z]*)", re.ASCII)
_SECONDS: Final = {"": 1.0, "ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_BYTES: Final = {
    "": 1,
    "b": 1,
    "k": 1024,
    "kb": 1024,
    "kib": 1024,
    "m": 1024**2,
    "mb": 1024**2,
    "mib": 1024**2,
    "g": 1024**3,
    "gb": 1024**3,
    "gib": 1024**3,
}
# RFC 6454 §6.2: what a browser sends as Origin, for pages that have one.
_ORIGIN: Final = re.compile(r"[a-z][a-z0-9+.-]*://(?:\[[0-9a-f:.]+\]|[a-z0-9._-]+)(?::[0-9]+)?")
_PUBLIC_URL: Final = re.compile(
    r"https?://(?:\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::[0-9]{1,5})?"
    r"(?:/[A-Za-z0-9._~!$&'()*+,;=:@-]+)*"
)
# RFC 3986 §3.3: segments without escapes, so that there is one way to write each.
_ROOT: Final = re.compile(r"(?:/[A-Za-z0-9._~!$&'()*+,;=:@-]+)*/")

_DAY: Final = 24 * 3600


def seconds(option: str, text: str) -> float:
    """A time such as ``500ms``, ``30s``, ``2m`` or ``1h``; a bare number means seconds."""
    match = _NUMBER.fullmatch(text.strip())
    factor = None if match is None else _SECONDS.get(match[2].lower())
    if match is None or factor is None:
        raise UsageError(f"--{option} is a time such as 500ms, 30s, 2m or 1h, not {text!r}")
    value = float(match[1]) * factor
    if not 0 < value <= _DAY:
        raise UsageError(f"--{option} is more than nothing and at most a day, not {text!r}")
    return value


def size(option: str, text: str) -> int:
    """A size such as ``512k`` or ``64MiB``, in units of 1024; a bare number means bytes."""
    match = _NUMBER.fullmatch(text.strip())
    factor = None if match is None else _BYTES.get(match[2].lower())
    if match is None or factor is None:
        raise UsageError(f"--{option} is a size such as 65536, 512k or 64MiB, not {text!r}")
    value = int(float(match[1]) * factor)
    if value < 1:
        raise UsageError(f"--{option} is at least one byte, not {text!r}")
    return value


def count(option: str, text: str) -> int:
    """A number of things, or 0 for any number."""
    if not re.fullmatch("[0-9]{1,9}", text):
        raise UsageError(f"--{option} is a number, or 0 for any number, not {text!r}")
    return int(text)


def port(text: str) -> int:
    """A TCP port; 0 lets the system choose one."""
    if not re.fullmatch("[0-9]{1,5}", text) or int(text) > 65535:
        raise UsageError(f"--port is a number from 0 to 65535, not {text!r}")
    return int(text)


def root(text: str) -> bytes:
    """The path that streams live under, as a raw path behind the first slash."""
    path = text if text.endswith("/") else text + "/"
    segments = path.split("/")
    if _ROOT.fullmatch(path) is None or "." in segments or ".." in segments:
        raise UsageError(f"--root is a path such as /v1/stream/, of plain characters, not {text!r}")
    return path[1:].encode("ascii")


def origin(text: str) -> str:
    """An origin as browsers send it, or ``*`` for all."""
    if text == "*":
        return text
    if _ORIGIN.fullmatch(text.lower()) is None:
        raise UsageError(
            f"--cors-origin is an origin such as https://app.example, or *, not {text!r}"
        )
    return text.lower()


def public_url(text: str | None, root: bytes) -> str | None:
    """The URL of the streams' root, from where others reach the server: scheme, host, and what a
    proxy may have before ``root``."""
    if text is None:
        return None
    base = text.rstrip("/")
    if _PUBLIC_URL.fullmatch(base) is None:
        raise UsageError(
            f"--public-url is a URL such as https://streams.example, without a query, not {text!r}"
        )
    return f"{base}/{root.decode('ascii')}"
