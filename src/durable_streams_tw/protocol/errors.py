"""Refusals: what the server says when it will not do what it was asked.

A refusal is a value. Parsers raise it wrapped in `Refused`; transitions return it, so
that one refused command of a batch costs the others nothing. Every problem has a stable
``type`` (RFC 9457 §3.1.1) that clients may match on; the sentence is for people.
"""

from __future__ import annotations

from enum import Enum

from msgspec import Struct

HeaderList = tuple[tuple[bytes, bytes], ...]


class Problem(Enum):
    """The problems this server reports: slug, HTTP status, title."""

    MALFORMED_REQUEST = "malformed-request", 400, "The request is malformed"
    MALFORMED_PATH = "malformed-path", 400, "The path names no stream"
    MALFORMED_OFFSET = "malformed-offset", 400, "The offset is malformed"
    OFFSET_OUT_OF_RANGE = "offset-out-of-range", 400, "The offset is not of this stream"
    MALFORMED_FIELD = "malformed-field", 400, "A header field is malformed"
    EMPTY_BODY = "empty-body", 400, "The body is empty"
    INVALID_JSON = "invalid-json", 400, "The body is not valid JSON"
    EPOCH_WITHOUT_RESTART = "epoch-without-restart", 400, "A new epoch starts at sequence 0"
    INVALID_FORK = "invalid-fork", 400, "The fork point is not valid"
    INVALID_REQUEST = "invalid-request", 400, "The control request is not valid"
    WEBHOOK_URL_REJECTED = "webhook-url-rejected", 400, "The webhook's URL is not allowed"
    UNAUTHORIZED = "unauthorized", 401, "Credentials are missing or wrong"
    TOKEN_INVALID = "token-invalid", 401, "The wake's token is missing or wrong"
    TOKEN_EXPIRED = "token-expired", 401, "The wake's token has expired"
    FORBIDDEN = "forbidden", 403, "The credentials do not allow this"
    HOST_NOT_ALLOWED = "host-not-allowed", 403, "The server is not called by that name"
    CROSS_SITE = "cross-site", 403, "Pages of that origin may change nothing here"
    STALE_EPOCH = "stale-epoch", 403, "The producer was fenced by a newer epoch"
    NOT_FOUND = "not-found", 404, "There is nothing here"
    STREAM_NOT_FOUND = "stream-not-found", 404, "There is no such stream"
    SUBSCRIPTION_NOT_FOUND = "subscription-not-found", 404, "There is no such subscription"
    METHOD_NOT_ALLOWED = "method-not-allowed", 405, "The method is not supported here"
    REQUEST_TIMEOUT = "request-timeout", 408, "The request did not come in time"
    STREAM_EXISTS = "stream-exists", 409, "The stream exists with another configuration"
    STREAM_CLOSED = "stream-closed", 409, "The stream is closed"
    CONTENT_TYPE_MISMATCH = "content-type-mismatch", 409, "The content type does not match"
    SEQUENCE_GAP = "sequence-gap", 409, "A producer sequence number is missing"
    SEQUENCE_REGRESSION = "sequence-regression", 409, "Stream-Seq does not increase"
    PATH_HELD = "path-held", 409, "A deleted stream with forks holds the path"
    SOURCE_GONE = "source-gone", 409, "The source stream is deleted"
    SUBSCRIPTION_ALREADY_EXISTS = (
        "subscription-already-exists",
        409,
        "The subscription exists with another configuration",
    )
    FENCED = "fenced", 409, "The wake is over"
    ALREADY_CLAIMED = "already-claimed", 409, "Another worker holds the subscription"
    NO_PENDING_WORK = "no-pending-work", 409, "There is nothing to be done"
    INVALID_OFFSET = "invalid-offset", 409, "The offset cannot be acknowledged"
    STREAM_GONE = "stream-gone", 410, "The stream is deleted"
    OFFSET_GONE = "offset-gone", 410, "The offset is of another incarnation of the stream"
    PRECONDITION_FAILED = "precondition-failed", 412, "A precondition is not met"
    BODY_TOO_LARGE = "body-too-large", 413, "The body is too large"
    TOO_MANY_MESSAGES = "too-many-messages", 413, "The body has too many messages"
    TARGET_TOO_LONG = "target-too-long", 414, "The request target is too long"
    UNSUPPORTED_ENCODING = "unsupported-encoding", 415, "The content encoding is not supported"
    EXPECTATION_FAILED = "expectation-failed", 417, "The expectation cannot be met"
    TOO_MANY_REQUESTS = "too-many-requests", 429, "Too many requests"
    HEAD_TOO_LARGE = "head-too-large", 431, "The request's head is too large"
    INTERNAL = "internal", 500, "The server failed"
    CORRUPT_RECORD = "corrupt-record", 500, "Stored bytes failed their checksum"
    UNKNOWN_CODING = "unknown-coding", 501, "The transfer coding is not supported"
    OVERLOADED = "overloaded", 503, "Too many writes are waiting"
    OUTCOME_UNKNOWN = "outcome-unknown", 503, "The commit failed with an unknown outcome"
    CREDENTIALS_UNCHECKED = (
        "credentials-unchecked",
        503,
        "The credentials cannot be checked at the moment",
    )
    STORAGE_UNAVAILABLE = "storage-unavailable", 503, "The disk does not answer"
    STOPPING = "stopping", 503, "The server is stopping"
    UNKNOWN_VERSION = "unknown-version", 505, "The HTTP version is not supported"
    STORAGE_FULL = "storage-full", 507, "There is no room left"

    def __init__(self, slug: str, status: int, title: str) -> None:
        self.slug = slug
        self.status = status
        self.title = title

    @property
    def type(self) -> str:
        """The problem's URI, stable across releases (RFC 9457 §3.1.1)."""
        return f"urn:durable-streams:problem:{self.slug}"


class Refusal(Struct, frozen=True):
    """One refused request: which problem, a sentence for people, header fields to add."""

    problem: Problem
    detail: str
    fields: HeaderList = ()


class Refused(Exception):
    """Carries a `Refusal` out of a parser."""

    def __init__(self, problem: Problem, detail: str, fields: HeaderList = ()) -> None:
        super().__init__(detail)
        self.refusal = Refusal(problem, detail, fields)
