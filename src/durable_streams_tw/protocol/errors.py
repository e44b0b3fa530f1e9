"""Problem types and refusals of requests (RFC 9457).

A `Refusal` is a value. Parsers raise it wrapped in `Refused`; transitions return it, so
that a refused command does not abort the other commands of its batch. Clients may match on
a problem's ``type``, which is stable; titles and details are for people.
"""

from __future__ import annotations

from enum import Enum

from msgspec import Struct

HeaderList = tuple[tuple[bytes, bytes], ...]
"""Headers of a response, in order."""


class Problem(Enum):
    """Problem types of error responses: slug, HTTP status, title. The value is the slug."""

    MALFORMED_REQUEST = "malformed-request", 400, "The request is malformed"
    MALFORMED_PATH = "malformed-path", 400, "The stream path is invalid"
    MALFORMED_OFFSET = "malformed-offset", 400, "The offset is malformed"
    OFFSET_OUT_OF_RANGE = "offset-out-of-range", 400, "The offset is beyond the end of the stream"
    MALFORMED_FIELD = "malformed-field", 400, "A header is malformed"
    EMPTY_BODY = "empty-body", 400, "The body is empty"
    INVALID_JSON = "invalid-json", 400, "The body is not valid JSON"
    EPOCH_WITHOUT_RESTART = "epoch-without-restart", 400, "A new epoch must start at sequence 0"
    INVALID_FORK = "invalid-fork", 400, "The fork point is invalid"
    INVALID_REQUEST = "invalid-request", 400, "The control request is invalid"
    WEBHOOK_URL_REJECTED = "webhook-url-rejected", 400, "The webhook URL is not allowed"
    UNAUTHORIZED = "unauthorized", 401, "Credentials are missing or invalid"
    TOKEN_INVALID = "token-invalid", 401, "The wake token is missing or invalid"
    TOKEN_EXPIRED = "token-expired", 401, "The wake token has expired"
    FORBIDDEN = "forbidden", 403, "The credentials do not permit this request"
    HOST_NOT_ALLOWED = "host-not-allowed", 403, "The host name is not allowed"
    CROSS_SITE = "cross-site", 403, "Cross-site requests from this origin are not allowed"
    STALE_EPOCH = "stale-epoch", 403, "The producer was fenced by a newer epoch"
    NOT_FOUND = "not-found", 404, "The resource does not exist"
    STREAM_NOT_FOUND = "stream-not-found", 404, "The stream does not exist"
    SUBSCRIPTION_NOT_FOUND = "subscription-not-found", 404, "The subscription does not exist"
    METHOD_NOT_ALLOWED = "method-not-allowed", 405, "The method is not supported"
    REQUEST_TIMEOUT = "request-timeout", 408, "The request was not received in time"
    STREAM_EXISTS = "stream-exists", 409, "The stream exists with another configuration"
    STREAM_CLOSED = "stream-closed", 409, "The stream is closed"
    CONTENT_TYPE_MISMATCH = "content-type-mismatch", 409, "The content type does not match"
    SEQUENCE_GAP = "sequence-gap", 409, "A producer sequence number is missing"
    SEQUENCE_REGRESSION = "sequence-regression", 409, "Stream-Seq does not increase"
    PATH_HELD = "path-held", 409, "A deleted stream with forks occupies the path"
    SOURCE_GONE = "source-gone", 409, "The source stream was deleted"
    SUBSCRIPTION_ALREADY_EXISTS = (
        "subscription-already-exists",
        409,
        "The subscription exists with another configuration",
    )
    FENCED = "fenced", 409, "The wake is no longer current"
    ALREADY_CLAIMED = "already-claimed", 409, "Another worker holds the lease"
    NO_PENDING_WORK = "no-pending-work", 409, "No work is pending"
    INVALID_OFFSET = "invalid-offset", 409, "The offset cannot be acknowledged"
    STREAM_GONE = "stream-gone", 410, "The stream was deleted"
    OFFSET_GONE = "offset-gone", 410, "The offset belongs to another incarnation of the stream"
    PRECONDITION_FAILED = "precondition-failed", 412, "A precondition is not met"
    BODY_TOO_LARGE = "body-too-large", 413, "The body is too large"
    TOO_MANY_MESSAGES = "too-many-messages", 413, "The body has too many messages"
    TARGET_TOO_LONG = "target-too-long", 414, "The request target is too long"
    UNSUPPORTED_ENCODING = "unsupported-encoding", 415, "The content encoding is not supported"
    EXPECTATION_FAILED = "expectation-failed", 417, "The expectation cannot be met"
    TOO_MANY_REQUESTS = "too-many-requests", 429, "Too many requests"
    HEAD_TOO_LARGE = "head-too-large", 431, "The request head is too large"
    INTERNAL = "internal", 500, "Internal server error"
    CORRUPT_RECORD = "corrupt-record", 500, "A stored record failed its checksum"
    UNKNOWN_CODING = "unknown-coding", 501, "The transfer coding is not supported"
    OVERLOADED = "overloaded", 503, "The server is overloaded"
    OUTCOME_UNKNOWN = "outcome-unknown", 503, "The outcome of the commit is unknown"
    CREDENTIALS_UNCHECKED = (
        "credentials-unchecked",
        503,
        "The credentials cannot be verified at the moment",
    )
    STORAGE_UNAVAILABLE = "storage-unavailable", 503, "The storage is unavailable"
    STOPPING = "stopping", 503, "The server is stopping"
    UNKNOWN_VERSION = "unknown-version", 505, "The HTTP version is not supported"
    STORAGE_FULL = "storage-full", 507, "The storage is full"

    def __new__(cls, slug: str, status: int, title: str) -> Problem:
        """Make a member whose value is its slug."""
        member = object.__new__(cls)
        member._value_ = slug
        return member

    def __init__(self, slug: str, status: int, title: str) -> None:
        self.slug = slug
        self.status = status
        self.title = title

    @property
    def type(self) -> str:
        """URN of the problem type, stable across releases (RFC 9457 §3.1.1)."""
        return f"urn:durable-streams:problem:{self.slug}"


class Refusal(Struct, frozen=True, array_like=True, tag=True):
    """Refusal of a request: problem type, detail for people, headers of the error response."""

    problem: Problem
    detail: str
    headers: HeaderList = ()


class Refused(Exception):
    """Exception by which a parser refuses a request; ``refusal`` is its value."""

    def __init__(self, problem: Problem, detail: str, headers: HeaderList = ()) -> None:
        super().__init__(detail)
        self.refusal = Refusal(problem, detail, headers)
