"""Exceptions of the client, and functions that read error responses."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import Final

_PROBLEM: Final = "urn:durable-streams:problem:"

#: Statuses of transient errors: timeouts, rate limits, and failures of a server or proxy
#: (RFC 9110 §15.5, §15.6; RFC 6585 §4; Cloudflare uses 520 to 524).
_TRANSIENT: Final = frozenset({408, 425, 429, 500, 502, 503, 504, 520, 521, 522, 523, 524})

#: Statuses after which the server may have carried out the request: a proxy also responds with
#: 408 or 499 to a request that it has forwarded.
_AMBIGUOUS: Final = frozenset({408, 499})

#: Problem types that this project's server sends with a status of 500 or above if it has changed
#: nothing.
_REFUSALS: Final = frozenset(
    _PROBLEM + slug
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
    ``status`` is the HTTP status and ``problem`` the problem type (RFC 9457) of the response that
    caused the error; None and empty if there is none.
    """

    url: str | None = None
    status: int | None = None
    problem: str = ""

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


class InvalidArgument(ClientError, ValueError):
    """Invalid argument of a call; nothing was sent. ``argument`` is its name."""

    def __init__(self, argument: str, message: str) -> None:
        super().__init__(f"{argument} {message}")
        self.argument = argument


class BadTarget(InvalidArgument):
    """Invalid URL of a stream."""

    def __init__(self, message: str) -> None:
        super().__init__("url", message)
        self.args = (message,)


class Unreachable(ClientError):
    """Connection failure: not established, or lost before the response was complete.

    ``sent`` is true if the request may have reached the server, which may have carried it out.
    """

    def __init__(self, message: str, *, sent: bool) -> None:
        super().__init__(message)
        self.sent = sent


class Untrusted(ClientError):
    """Failure of TLS, such as of the server's certificate; a retry would fail again."""


class BadResponse(ClientError):
    """Response that violates the protocol or exceeds a limit of the client."""


class Rejected(ClientError):
    """Error response of the server. Its subclasses are the usual kinds.

    ``header`` contains the headers of the response by lower-case name. ``detail`` is the server's
    message in one line, empty if the response has none.
    """

    status: int

    def __init__(
        self, status: int, header: Mapping[str, str], detail: str = "", problem: str = ""
    ) -> None:
        kind = f" ({problem.removeprefix(_PROBLEM)})" if problem else ""
        super().__init__(
            f"the server responded with {status}{kind}" + (f": {detail}" if detail else "")
        )
        self.status = status
        self.header = header
        self.detail = detail
        self.problem = problem

    @property
    def transient(self) -> bool:
        """True if the same request may succeed later."""
        return self.status in _TRANSIENT

    @property
    def definite(self) -> bool:
        """True if the request has certainly changed nothing.

        A proxy may respond with 500 or above to a request that the server has carried out, so
        such a status counts only with a problem type that excludes this.
        """
        if self.status >= 500:
            return self.problem in _REFUSALS
        return self.status not in _AMBIGUOUS


class InvalidRequest(Rejected):
    """The server considers the request malformed (400)."""


class InvalidOffset(InvalidRequest):
    """Malformed offset, or one after the end of the stream (400)."""


class Unauthorized(Rejected):
    """Missing or invalid credentials (401)."""


class Forbidden(Rejected):
    """Credentials that do not permit the request (403)."""


class NotFound(Rejected):
    """The stream does not exist (404)."""


class Gone(Rejected):
    """The stream was deleted, or the offset belongs to an earlier stream of this URL (410)."""


class Conflict(Rejected):
    """The request contradicts the state of the stream (409)."""


class StreamClosed(Conflict):
    """The stream is closed (409). ``offset`` is its end, empty if the server does not say."""

    @property
    def offset(self) -> str:
        """Offset of the end of the stream."""
        return self.header.get("stream-next-offset", "")


class SequenceConflict(Conflict):
    """Stream-Seq that does not increase, or a gap in a producer's batches (409)."""


class TooLarge(Rejected):
    """Body that exceeds a limit of the server (413)."""


class RateLimited(Rejected):
    """Too many requests (429)."""


class Unavailable(Rejected):
    """Failure of the server or of a proxy (500 and above)."""


class Fenced(ClientError):
    """Producer or worker that another one of the same name has replaced or preceded."""


class ProducerStopped(ClientError):
    """Message that a producer did not send: it was closed, or an earlier batch has failed."""


class OutcomeUnknown(ClientError):
    """Append whose outcome is unknown: the server may have carried it out."""


_STATUSES: Final = frozenset(HTTPStatus)
_KINDS: Final = {
    400: InvalidRequest,
    401: Unauthorized,
    403: Forbidden,
    404: NotFound,
    409: Conflict,
    410: Gone,
    413: TooLarge,
    429: RateLimited,
}


def rejection(status: int, header: Mapping[str, str], body: bytes) -> Rejected:
    """Return the error of an error response."""
    content_type = header.get("content-type", "")
    detail = detail_of(content_type, body)
    if 300 <= status < 400 and "location" in header:
        detail = f"redirect to {header['location']} was not followed"
    elif not detail and status in _STATUSES:
        detail = HTTPStatus(status).phrase
    problem = problem_of(content_type, body)
    slug = problem.removeprefix(_PROBLEM) or detail.lower()
    kind = Unavailable if status >= 500 else _KINDS.get(status, Rejected)
    if kind is InvalidRequest and "offset" in slug:
        kind = InvalidOffset
    if kind is Conflict:
        if header.get("stream-closed", "").lower() == "true":
            kind = StreamClosed
        elif "sequence" in slug or "producer-expected-seq" in header:
            kind = SequenceConflict
    return kind(status, header, detail, problem)


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
    """Return the type of an error response's problem details (RFC 9457), empty if it has none.

    For errors of subscriptions (PROTOCOL.md §7), return their code.
    """
    if not content_type.partition(";")[0].strip().lower().endswith(("/json", "+json")):
        return ""
    try:
        said = json.loads(body)
    except ValueError:
        return ""
    inner = said.get("error") if isinstance(said, dict) else None
    kind = inner.get("code") if isinstance(inner, dict) else None
    if kind is None and isinstance(said, dict):
        kind = said.get("type")
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
