"""What can go wrong between a client and a server, as exceptions with fields."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from email.utils import parsedate_to_datetime
from typing import Final

#: Statuses of requests that may succeed later: too early, too many, or a server or proxy with
#: trouble of its own (RFC 9110 §15.5, §15.6; RFC 6585 §4; 520 to 524 are Cloudflare's).
_PASSING: Final = frozenset({408, 425, 429, 500, 502, 503, 504, 520, 521, 522, 523, 524})

#: Statuses that say nothing about whether the server has carried the request out. A proxy answers
#: 408 and 499 for a request that it may have passed on.
_AMBIGUOUS: Final = frozenset({408, 499})

#: Problems of this project's server, with a status from 500 on, that mean that nothing was
#: changed.
_REFUSALS: Final = frozenset(
    f"urn:durable-streams:problem:{slug}"
    for slug in (
        "credentials-unchecked",
        "overloaded",
        "stopping",
        "storage-full",
        "storage-unavailable",
        "unknown-coding",
        "unknown-version",
    )
)

#: The longest `Retry-After` that anybody waits for, in seconds.
_LONGEST_WAIT: Final = 60.0


class ClientError(Exception):
    """Something went wrong; the message is a sentence for people.

    ``url`` is that of the stream, without query, where the failure is about one.
    """

    url: str | None = None

    def __str__(self) -> str:
        message = super().__str__()
        return message if self.url is None else f"{self.url}: {message}"


@contextmanager
def about(url: str) -> Iterator[None]:
    """Name a stream in the errors that the block raises, unless they name one already."""
    try:
        yield
    except ClientError as error:
        if error.url is None:
            # A query may hold a signature or a token.
            error.url = url.partition("?")[0]
        raise


class BadProducer(ClientError, ValueError):
    """A producer's name or epoch is not one that a server can accept."""


class BadTarget(ClientError):
    """What should be the URL of a stream is none."""


class Unreachable(ClientError):
    """There was no connection, or it was lost before the answer was complete.

    ``sent`` says that the request may have reached the server: what it was to change may
    have been changed.
    """

    def __init__(self, message: str, *, sent: bool) -> None:
        super().__init__(message)
        self.sent = sent


class Untrusted(ClientError):
    """The server's certificate is not one to trust; asking again would not change it."""


class Broken(ClientError):
    """The server's answer is not one of this protocol."""


class Rejected(ClientError):
    """The server has refused a request.

    ``status`` is that of the answer, ``header`` its fields by lower-case name, ``detail`` what
    the server says about it, in one line, and may be empty; ``problem`` is the type of its problem
    details (RFC 9457), empty without.
    """

    def __init__(
        self, status: int, header: Mapping[str, str], detail: str, problem: str = ""
    ) -> None:
        super().__init__(f"the server answered {status}" + (f": {detail}" if detail else ""))
        self.status = status
        self.header = header
        self.detail = detail
        self.problem = problem

    @property
    def closed(self) -> bool:
        """Whether the reason is that the stream is closed (PROTOCOL.md §5.2)."""
        return self.header.get("stream-closed", "").lower() == "true"

    @property
    def passing(self) -> bool:
        """Whether the same request may succeed a while later."""
        return self.status in _PASSING

    @property
    def definite(self) -> bool:
        """Whether the request has certainly changed nothing.

        Behind a proxy, a status from 500 on may follow a request that the server has carried out.
        """
        if self.status >= 500:
            return self.problem in _REFUSALS
        return self.status not in _AMBIGUOUS


class Fenced(ClientError):
    """Another producer of the same name has taken over, or was here before (§5.2.1)."""


class OutcomeUnknown(ClientError):
    """What was to be appended may be there or not, and nothing tells which."""


def detail_of(content_type: str, body: bytes) -> str:
    """Return the message of an error's body as one printable line.

    Servers send problem details (RFC 9457), other JSON, or text. HTML is ignored.
    """
    kind = content_type.partition(";")[0].strip().lower()
    text = body[:4096].decode("utf-8", "replace")
    if kind.endswith(("/json", "+json")):
        try:
            said = json.loads(body)
        except ValueError:
            return _line(text)
        return _line(_words(said) or text)
    return "" if "html" in kind else _line(text)


def problem_of(content_type: str, body: bytes) -> str:
    """Return the type of the problem details in an error's body (RFC 9457), empty without."""
    if content_type.partition(";")[0].strip().lower() != "application/problem+json":
        return ""
    try:
        said = json.loads(body)
    except ValueError:
        return ""
    kind = said.get("type") if isinstance(said, dict) else None
    return kind if isinstance(kind, str) else ""


def retry_after(header: Mapping[str, str], now: float) -> float:
    """How long a server asks to be left alone, in seconds (RFC 9110 §10.2.3); 0 without.

    ``now`` is seconds since 1970.
    """
    text = header.get("retry-after", "").strip()
    if text.isascii() and text.isdigit():
        return min(float(text[:9]), _LONGEST_WAIT)
    try:
        then = parsedate_to_datetime(text).timestamp()
    except ValueError:
        return 0.0
    return min(max(then - now, 0.0), _LONGEST_WAIT)


def _words(said: object) -> str:
    if isinstance(said, dict):
        for key in ("detail", "message", "error", "title"):
            value = said.get(key)
            if isinstance(value, str) and value:
                return value
            if isinstance(value, dict):
                return _words(value)
    return said if isinstance(said, str) else ""


def _line(text: str) -> str:
    # What a server says goes to a terminal: no control sequences.
    kept = "".join(letter if letter.isprintable() else " " for letter in text)
    return " ".join(kept.split())[:500]
