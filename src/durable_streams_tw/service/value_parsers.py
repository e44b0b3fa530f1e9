"""Parsers of setting values: times, sizes, paths, origins.

Each parser raises `InvalidValue` with the expected form; the caller adds the name of the setting
and its source.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from typing import Final

from durable_streams_tw.auth.bearer_tokens import COOKIE_NAME
from durable_streams_tw.auth.origins import LOCAL
from durable_streams_tw.auth.rate_limits import Rate

_NUMBER: Final = re.compile(r"([0-9]+(?:\.[0-9]+)?) ?([A-Za-z]*)", re.ASCII)
#: Units of times, in seconds.
SECONDS: Final = {"": 1.0, "ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_BYTES: Final = {
    "": 1,
    "b": 1,
    **{unit + end: 1024**n for n, unit in enumerate("kmgt", 1) for end in ("", "b", "ib")},
}
# RFC 6454 §6.2: the Origin header of a browser, except "null".
_ORIGIN: Final = re.compile(r"[a-z][a-z0-9+.-]*://(?:\[[0-9a-f:.]+\]|[a-z0-9._-]+)(?::[0-9]+)?")
_PUBLIC_URL: Final = re.compile(
    r"https?://(?:\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::[0-9]{1,5})?"
    r"(?:/[A-Za-z0-9._~!$&'()*+,;=:@-]+)*"
)
_HOST_NAME: Final = re.compile(r"\[[0-9a-f:.]+\]|[a-z0-9._-]+")
_COUNT: Final = re.compile("[0-9]{1,9}")
_FIELD_NAME: Final = re.compile(r"(?!\*$)[A-Za-z0-9!#$%&'*+.^_`|~-]{1,256}")
_AUTH: Final = re.compile(r"[a-z][a-z0-9_-]*(?::\S*)?")
_RATE: Final = re.compile(r"(?=0*[1-9])([0-9]{1,9})/([0-9.]*(?:ms|s|m|h))", re.ASCII)
# RFC 3986 §3.3: segments without percent-escapes, so that each has one spelling.
_ROOT: Final = re.compile(r"(?:/[A-Za-z0-9._~!$&'()*+,;=:@-]+)*/")

# Userinfo and query of a URL.
_URL_SECRETS: Final = re.compile(r"(?<=://)[^/?#,\s]*(?=@)|(?<=\?)[^,\s]*")

# Password of a database URL: libpq takes everything up to the last "@" before the host.
_PASSWORD: Final = re.compile(r"(?<=://)([^:@/?#]*):.*@|(?<=[?&])((?:ssl)?password=)[^&]*")
_IDENTIFIER: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,62}", re.ASCII)
_NODE: Final = re.compile(r"[A-Za-z0-9._-]{1,64}", re.ASCII)

#: Text printed in place of a secret.
REDACTED: Final = "***"

_DAY: Final = 24 * 3600
_TRUE: Final = frozenset({"true", "yes", "on", "1"})
_FALSE: Final = frozenset({"false", "no", "off", "0"})


class InvalidValue(Exception):
    """A value has the wrong form. The message says what was expected."""


def duration(text: str) -> float:
    """Parse a time such as ``500ms``, ``90``, ``1.5h`` or ``7d``; a bare number is in seconds."""
    return _quantity(text, SECONDS, "a time such as 500ms, 30s, 2m, 1h or 7d")


def seconds(text: str) -> float:
    """Parse a time of more than 0 and at most a day."""
    value = duration(text)
    if not 0 < value <= _DAY:
        raise InvalidValue("expected a time of more than 0 and at most 24h")
    return value


def size(text: str) -> int:
    """Parse a size such as ``512k`` or ``64MiB`` in units of 1024; a bare number is in bytes."""
    value = int(_quantity(text, _BYTES, "a size such as 65536, 512k or 64MiB"))
    if value < 1:
        raise InvalidValue("expected at least one byte")
    return value


def _quantity(text: str, units: Mapping[str, float], expected: str) -> float:
    match = _match(_NUMBER, text.strip(), expected)
    if match[2].lower() not in units:
        raise InvalidValue(f"expected {expected}")
    return float(match[1]) * units[match[2].lower()]


def _match(pattern: re.Pattern[str], text: str, expected: str) -> re.Match[str]:
    match = pattern.fullmatch(text)
    if match is None:
        raise InvalidValue(f"expected {expected}")
    return match


def count(text: str) -> int:
    """Parse a non-negative number; 0 usually means no limit."""
    return int(_match(_COUNT, text, "a number, or 0 for no limit")[0])


def workers(text: str) -> int:
    """Parse a number of processes, or ``auto`` for one less than there are cores."""
    if text == "auto":
        return max(1, cores() - 1)
    if not re.fullmatch("[0-9]{1,3}", text) or not int(text):
        raise InvalidValue("expected a number from 1 to 999, or auto")
    return int(text)


def cores() -> int:
    """Return the number of cores that this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)
    return os.cpu_count() or 1 if affinity is None else len(affinity(0))


def port(text: str) -> int:
    """Parse a TCP port; with 0 the operating system chooses one."""
    if not _COUNT.fullmatch(text) or int(text) > 65535:
        raise InvalidValue("expected a number from 0 to 65535")
    return int(text)


def interface(text: str) -> str:
    """Return a local address without the brackets that an IPv6 address may have."""
    return text.strip("[]")


def endpoint(text: str) -> str:
    """Return the description of an endpoint, which Twisted parses later."""
    if not text.strip():
        raise InvalidValue("expected an endpoint such as tcp:4437")
    return text


def directory(text: str) -> str:
    """Return the absolute path of a directory: a daemon changes its working directory."""
    return _path(text, "a directory")


def file(text: str) -> str:
    """Return the absolute path of a file."""
    return _path(text, "a file")


def _path(text: str, kind: str) -> str:
    if not text:
        raise InvalidValue(f"expected the path of {kind}, which may not be empty")
    return os.path.abspath(os.path.expanduser(text))


def flag(text: str) -> bool:
    """Parse a boolean: true, yes, on, 1, false, no, off or 0."""
    word = text.strip().lower()
    if word not in _TRUE | _FALSE:
        raise InvalidValue("expected true or false")
    return word in _TRUE


def choice(*words: str) -> Callable[[str], str]:
    """Return a parser that accepts one of these words."""

    def chosen(text: str) -> str:
        if text not in words:
            raise InvalidValue(f"expected {', '.join(words[:-1])} or {words[-1]}")
        return text

    return chosen


def root(text: str) -> bytes:
    """Parse the URL path prefix of the streams; return it without its first slash."""
    path = text if text.endswith("/") else text + "/"
    segments = path.split("/")
    if _ROOT.fullmatch(path) is None or "." in segments or ".." in segments:
        raise InvalidValue("expected a path such as /v1/stream/, without percent-escapes")
    return path[1:].encode("ascii")


def origin(text: str) -> str:
    """Parse an origin as browsers send it, ``*`` (all) or ``local`` (this machine)."""
    if text in ("*", LOCAL):
        return text
    return _match(_ORIGIN, text.lower(), "an origin such as https://app.example, or *, or local")[0]


def field_name(text: str) -> str:
    """Parse the name of a header (RFC 9110 §5.1)."""
    return _match(_FIELD_NAME, text, "the name of a header such as X-Request-Id")[0]


def host(text: str) -> str:
    """Parse an accepted host name without a port, or ``local``."""
    expected = "a host name such as streams.example, without a port, or local"
    return _match(_HOST_NAME, text.lower(), expected)[0]


def auth(text: str) -> str:
    """Parse ``KIND:ARGUMENT`` of a token checker, which parses its argument later."""
    return _match(_AUTH, text, "KIND:ARGUMENT without spaces, such as file:tokens.toml")[0]


def redact_auth(text: str) -> str:
    """Redact a value of ``auth``: userinfo and query of URLs, and arguments of unknown kinds."""
    kind, colon, _ = text.partition(":")
    if kind == "file":
        return text
    if kind == "jwt":
        return _URL_SECRETS.sub(REDACTED, text)
    return kind + colon + (REDACTED if colon else "")


def cookie(text: str) -> str:
    """Parse the name of a cookie."""
    return _match(COOKIE_NAME, text, "the name of a cookie such as __Host-token")[0]


def rate(text: str) -> Rate | None:
    """Parse a rate such as ``100/s``; 0 is no limit."""
    if text == "0":
        return None
    match = _match(_RATE, text, "a rate such as 100/s, 3000/m or 50/10s, or 0")
    span = match[2] if match[2][0].isdigit() else f"1{match[2]}"
    return Rate(int(match[1]), seconds(span))


def public_url(text: str) -> str:
    """Parse a URL of scheme, host and path prefix; return it without a trailing slash."""
    expected = "a URL such as https://streams.example, without a query"
    return _match(_PUBLIC_URL, text.rstrip("/"), expected)[0]


def database(text: str) -> str:
    """Return a database URL of libpq, which parses it later."""
    if not text.startswith(("postgresql://", "postgres://")) or not text.isprintable():
        raise InvalidValue("expected a URL such as postgresql://user@host/database")
    return text


def redact_database(text: str) -> str:
    """Redact the passwords of a database URL, and all of a text that is no URL."""
    if "://" not in text:
        return REDACTED
    return _PASSWORD.sub(
        lambda found: f"{found[2]}{REDACTED}" if found[2] else f"{found[1]}:{REDACTED}@", text
    )


def schema(text: str) -> str:
    """Parse the name of a schema, which needs no quotes in SQL."""
    return _match(_IDENTIFIER, text, "a name of letters, digits and underscores")[0]


def node(text: str) -> str:
    """Parse the name of a node."""
    return _match(_NODE, text, "a name of letters, digits, dots, hyphens and underscores")[0]
