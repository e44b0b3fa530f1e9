"""Exceptions of the client, and functions that read error responses."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from email.utils import parsedate_to_datetime
from typing import Final

#: Statuses of transient errors: timeouts, rate limits, and failures of a server or proxy
#: (RFC 9110 §15.5, §15.6; RFC 6585 §4; Cloudflare uses 520 to 524).
_PASSING: Final = frozenset({408, 425, 429, 500, 502, 503, 504, 520, 521, 522, 523, 524})

#: Statuses after which the server may have carried out the request: a proxy also responds with
#: 408 or 499 to a request that it has forwarded.
_AMBIGUOUS: Final = frozenset({408, 499})

#: Problem types that this project's server sends with a status of 500 or above if it has changed
#: nothing.
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

#: Maximum `Retry-After` that the client accepts (seconds); longer ones are reduced to it.
_LONGEST_WAIT: Final = 60.0


class ClientError(Exception):
    """Base class of the client's errors; the message is for users.

    ``url`` is the URL of the stream without its query, None if the error concerns no stream.
    """

    url: str | None = None

    def __str__(self) -> str:
        message = super().__str__()
        return message if self.url is None else f"{self.url}: {message}"


@contextmanager
def about(url: str) -> Iterator[None]:
    """Set the URL of each `ClientError` that the block raises, unless it is set already."""
    try:
        yield
    except ClientError as error:
        if error.url is None:
            # Error messages are logged, and a query may contain a signature or a token.
            error.url = url.partition("?")[0]
        raise


class BadProducer(ClientError, ValueError):
    """Invalid name or epoch of a producer."""


class BadTarget(ClientError):
    """Invalid URL of a stream."""


class Unreachable(ClientError):
    """Connection failure: not established, or lost before the response was complete.

    ``sent`` is true if the request may have reached the server, which may have carried it out.
    """

    def __init__(self, message: str, *, sent: bool) -> None:
        super().__init__(message)
        self.sent = sent


class Untrusted(ClientError):
    """Server certificate that fails verification; a retry would fail again."""


class Broken(ClientError):
    """Response that violates the protocol or exceeds a limit of the client."""


class Rejected(ClientError):
    """Error response of the server.

    ``header`` contains the headers of the response by lower-case name. ``detail`` is the server's
    message in one line, ``problem`` the type of the problem details (RFC 9457); both are empty if
    the response has none.
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
        """True if the request failed because the stream is closed (PROTOCOL.md §5.2)."""
        return self.header.get("stream-closed", "").lower() == "true"

    @property
    def passing(self) -> bool:
        """True if the error is transient: the same request may succeed later."""
        return self.status in _PASSING

    @property
    def definite(self) -> bool:
        """True if the request has certainly changed nothing.

        A proxy may respond with 500 or above to a request that the server has carried out, so
        such a status counts only with a problem type that excludes this.
        """
        if self.status >= 500:
            return self.problem in _REFUSALS
        return self.status not in _AMBIGUOUS


class Fenced(ClientError):
    """Producer that another one of the same name has fenced or preceded (PROTOCOL.md §5.2.1)."""


class OutcomeUnknown(ClientError):
    """Append whose outcome is unknown: the server may have carried it out."""


def detail_of(content_type: str, body: bytes) -> str:
    """Return the message in the body of an error response, as one printable line.

    The body may be problem details (RFC 9457), other JSON, or text. Return an empty string for
    HTML.
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
    """Return the type of an error response's problem details (RFC 9457), empty if it has none."""
    if content_type.partition(";")[0].strip().lower() != "application/problem+json":
        return ""
    try:
        said = json.loads(body)
    except ValueError:
        return ""
    kind = said.get("type") if isinstance(said, dict) else None
    return kind if isinstance(kind, str) else ""


def retry_after(header: Mapping[str, str], now: float) -> float:
    """Return the delay of a Retry-After header in seconds, at most 60 (RFC 9110 §10.2.3).

    Return 0 if it is missing or malformed. ``now`` is in seconds since the Unix epoch.
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
    # The line is printed to a terminal, where control sequences of a server would be executed.
    kept = "".join(letter if letter.isprintable() else " " for letter in text)
    return " ".join(kept.split())[:500]
