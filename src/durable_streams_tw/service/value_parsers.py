"""Times, sizes, paths and origins as people write them.

Every parser raises `InvalidValue`, which says what would be right. Who asked for the value knows
where it stands, and puts that before it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from typing import Final

from durable_streams_tw.auth.bearer_tokens import COOKIE_NAME
from durable_streams_tw.auth.origins import LOCAL
from durable_streams_tw.auth.rate_limits import Rate

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
_HOST_NAME: Final = re.compile(r"\[[0-9a-f:.]+\]|[a-z0-9._-]+")
_RATE: Final = re.compile(r"([0-9]{1,9})/([0-9.]*(?:ms|s|m|h))", re.ASCII)
# RFC 3986 §3.3: segments without escapes, so that there is one way to write each.
_ROOT: Final = re.compile(r"(?:/[A-Za-z0-9._~!$&'()*+,;=:@-]+)*/")

# User and password of a URL, and its query.
_URL_SECRETS: Final = re.compile(r"(?<=://)[^/?#,\s]*(?=@)|(?<=\?)[^,\s]*")

#: Stands for what is not printed.
REDACTED: Final = "***"

_DAY: Final = 24 * 3600
_TRUE: Final = frozenset({"true", "yes", "on", "1"})
_FALSE: Final = frozenset({"false", "no", "off", "0"})


class InvalidValue(Exception):
    """A value is not understood.

    The message goes on where its name has been said: ``is a size such as 64MiB``.
    """


def seconds(text: str) -> float:
    """A time such as ``500ms``, ``30s``, ``2m`` or ``1h``; a bare number means seconds."""
    match = _NUMBER.fullmatch(text.strip())
    factor = None if match is None else _SECONDS.get(match[2].lower())
    if match is None or factor is None:
        raise InvalidValue("is a time such as 500ms, 30s, 2m or 1h")
    value = float(match[1]) * factor
    if not 0 < value <= _DAY:
        raise InvalidValue("is more than nothing and at most a day")
    return value


def size(text: str) -> int:
    """A size such as ``512k`` or ``64MiB``, in units of 1024; a bare number means bytes."""
    match = _NUMBER.fullmatch(text.strip())
    factor = None if match is None else _BYTES.get(match[2].lower())
    if match is None or factor is None:
        raise InvalidValue("is a size such as 65536, 512k or 64MiB")
    value = int(float(match[1]) * factor)
    if value < 1:
        raise InvalidValue("is at least one byte")
    return value


def count(text: str) -> int:
    """A number of things, or 0 for any number."""
    if not re.fullmatch("[0-9]{1,9}", text):
        raise InvalidValue("is a number, or 0 for any number")
    return int(text)


def port(text: str) -> int:
    """A TCP port; 0 lets the system choose one."""
    if not re.fullmatch("[0-9]{1,5}", text) or int(text) > 65535:
        raise InvalidValue("is a number from 0 to 65535")
    return int(text)


def interface(text: str) -> str:
    """An address of this machine; an IPv6 address may stand in brackets."""
    return text.strip("[]")


def endpoint(text: str) -> str:
    """A description of an endpoint; what it means, Twisted says."""
    if not text.strip():
        raise InvalidValue("is an endpoint such as tcp:4437")
    return text


def directory(text: str) -> str:
    """A directory, absolute from here on: a daemon changes its own."""
    if not text:
        raise InvalidValue("names a directory, and may not be empty")
    return os.path.abspath(text)


def flag(text: str) -> bool:
    """Yes or no, in the usual words."""
    word = text.strip().lower()
    if word not in _TRUE | _FALSE:
        raise InvalidValue("is true or false")
    return word in _TRUE


def choice(*words: str) -> Callable[[str], str]:
    """A parser that takes one of these words."""

    def chosen(text: str) -> str:
        if text not in words:
            raise InvalidValue(f"is {' or '.join(words)}")
        return text

    return chosen


def root(text: str) -> bytes:
    """The path that streams live under, as a raw path behind the first slash."""
    path = text if text.endswith("/") else text + "/"
    segments = path.split("/")
    if _ROOT.fullmatch(path) is None or "." in segments or ".." in segments:
        raise InvalidValue("is a path such as /v1/stream/, of plain characters")
    return path[1:].encode("ascii")


def origin(text: str) -> str:
    """An origin as browsers send it, ``*`` for all, ``local`` for those of this machine."""
    if text in ("*", LOCAL):
        return text
    if _ORIGIN.fullmatch(text.lower()) is None:
        raise InvalidValue("is an origin such as https://app.example, or *, or local")
    return text.lower()


def field_name(text: str) -> str:
    """The name of a header field (RFC 9110 §5.1)."""
    if re.fullmatch(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,256}", text) is None or text == "*":
        raise InvalidValue("is the name of a header field such as X-Request-Id")
    return text


def host(text: str) -> str:
    """A name by which the server may be called, or ``local``; no port."""
    if _HOST_NAME.fullmatch(text.lower()) is None:
        raise InvalidValue("is a host's name such as streams.example, without a port, or local")
    return text.lower()


def auth(text: str) -> str:
    """Who knows the tokens: a kind and its argument. What the kind makes of it comes later."""
    if re.fullmatch(r"[a-z][a-z0-9_-]*(?::\S*)?", text) is None:
        raise InvalidValue("is a kind and its argument, such as file:tokens.toml, without spaces")
    return text


def redact_auth(text: str) -> str:
    """The same without what may be secret: of URLs who asks and what for, and of kinds that are
    not ours all but their name."""
    kind, colon, _ = text.partition(":")
    if kind == "file":
        return text
    if kind == "jwt":
        return _URL_SECRETS.sub(REDACTED, text)
    return kind + colon + (REDACTED if colon else "")


def cookie(text: str) -> str:
    """The name of a cookie."""
    if COOKIE_NAME.fullmatch(text) is None:
        raise InvalidValue("is the name of a cookie, such as __Host-token")
    return text


def rate(text: str) -> Rate | None:
    """So many in a time, such as ``100/s``; 0 is any number."""
    if text == "0":
        return None
    match = _RATE.fullmatch(text)
    if match is None or not int(match[1]):
        raise InvalidValue("is a number in a time, such as 100/s, 3000/m or 50/10s, or 0")
    span = match[2] if match[2][0].isdigit() else f"1{match[2]}"
    return Rate(int(match[1]), seconds(span))


def public_url(text: str) -> str:
    """A URL of scheme, host, and what a proxy may have before the root; no slash at its end."""
    base = text.rstrip("/")
    if _PUBLIC_URL.fullmatch(base) is None:
        raise InvalidValue("is a URL such as https://streams.example, without a query")
    return base
