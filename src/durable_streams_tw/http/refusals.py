"""Refusals of requests that break the rules of HTTP, shared by all HTTP servers here."""

from __future__ import annotations

from typing import Final

from durable_streams_tw.http.limits import MAX_FIELDS, MAX_HEAD
from durable_streams_tw.protocol.errors import Problem, Refusal, Refused


def _malformed(detail: str) -> Refusal:
    return Refusal(Problem.MALFORMED_REQUEST, detail)


MALFORMED: Final = _malformed("this is not a well-formed HTTP request")
BAD_TARGET: Final = _malformed("the request target is malformed")
NOT_A_PROXY: Final = _malformed("CONNECT is not supported: this server is not a proxy")
BARE_LINE_END: Final = _malformed("a line must end with CR LF, and CR or LF must not stand alone")
BAD_FIELD: Final = _malformed("a header is malformed")
BAD_HOST: Final = _malformed("the Host header is missing, malformed or sent twice")
BODY_WITH_UPGRADE: Final = _malformed("a request with an Upgrade header must not have a body")
TWO_LENGTHS: Final = _malformed("Content-Length and Transfer-Encoding must not be sent together")
CODING_IN_HTTP10: Final = _malformed("HTTP/1.0 does not support Transfer-Encoding")
BAD_LENGTH: Final = _malformed("Content-Length must be one decimal number")
WRONG_LENGTH: Final = _malformed("the length of the body differs from Content-Length")
BAD_CHUNK_SIZE: Final = _malformed("the size of a chunk is malformed")
BAD_CHUNK_END: Final = _malformed("a chunk does not end with CR LF")
BAD_TRAILER: Final = _malformed("a trailer is malformed")
UNKNOWN_CODING: Final = Refusal(
    Problem.UNKNOWN_CODING, "unsupported Transfer-Encoding: the server supports chunked only"
)
UNKNOWN_VERSION: Final = Refusal(
    Problem.UNKNOWN_VERSION, "unsupported HTTP version: this port supports HTTP/1.1 and HTTP/1.0"
)
UNKNOWN_EXPECTATION: Final = Refusal(
    Problem.EXPECTATION_FAILED, "unsupported Expect header: the server supports 100-continue only"
)
TARGET_TOO_LONG: Final = Refusal(Problem.TARGET_TOO_LONG, "the request target is too long")
HEAD_TOO_LARGE: Final = Refusal(
    Problem.HEAD_TOO_LARGE,
    f"the head of a request must not exceed {MAX_HEAD} bytes and {MAX_FIELDS} headers",
)
REQUEST_TIMEOUT: Final = Refusal(
    Problem.REQUEST_TIMEOUT, "the request was not complete before its timeout"
)
BODY_MEMORY_EXHAUSTED: Final = Refusal(
    Problem.OVERLOADED, "too many request bodies are in memory", ((b"Retry-After", b"1"),)
)


class RefusedHead(Refused):
    """Refusal of a head whose headers could be read. ``origin`` is its Origin header."""

    def __init__(self, refusal: Refusal, origin: bytes | None) -> None:
        super().__init__(refusal.problem, refusal.detail, refusal.headers)
        self.origin = origin


def refused(refusal: Refusal) -> Refused:
    """Return the exception that carries a refusal."""
    return Refused(refusal.problem, refusal.detail, refusal.headers)


def duplicate_field(name: bytes) -> Refusal:
    """Return the refusal of a request that sends a single-valued header twice."""
    title = name.decode("latin-1").title()
    return Refusal(Problem.MALFORMED_FIELD, f"the header {title} was sent twice")
