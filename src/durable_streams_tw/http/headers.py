"""What answers carry whatever they say: CORS, security fields, cache directives, gzip
(PROTOCOL.md §10.1, §12.5, §12.7)."""

from __future__ import annotations

import re
import zlib
from collections.abc import Collection
from functools import lru_cache
from typing import Final

from durable_streams_tw.auth.origins import LOCAL, is_local_origin
from durable_streams_tw.http.limits import MIN_GZIP
from durable_streams_tw.http.messages import CommonHeaders, Response
from durable_streams_tw.live.transfers import Encoder
from durable_streams_tw.protocol import caching, content_types, headers
from durable_streams_tw.protocol.errors import Problem, Refusal
from durable_streams_tw.protocol.streams import responses
from durable_streams_tw.protocol.streams.responses import BufferedResponse, Header

METHODS: Final = b"GET, HEAD, POST, PUT, DELETE, OPTIONS"
ALLOW: Final[Header] = (b"Allow", METHODS)
VARY_ENCODING: Final[Header] = (b"Vary", b"Accept-Encoding")
GZIPPED: Final[Header] = (b"Content-Encoding", b"gzip")

#: What a browser's page may send, beside what a setting names.
_REQUEST_FIELDS: Final = (
    b"Accept",
    b"Authorization",
    b"Cache-Control",
    b"Content-Type",
    b"If-Match",
    b"If-None-Match",
    b"Last-Event-ID",
    b"Producer-Epoch",
    b"Producer-Id",
    b"Producer-Seq",
    b"Stream-Closed",
    b"Stream-Expires-At",
    b"Stream-Fork-Offset",
    b"Stream-Fork-Sub-Offset",
    b"Stream-Forked-From",
    b"Stream-Seq",
    b"Stream-TTL",
    # W3C Trace Context, which browser instrumentation adds to every request.
    b"traceparent",
    b"tracestate",
)

#: What a browser's page may see.
_ANSWER_FIELDS: Final = b", ".join(
    (
        headers.H_ETAG,
        headers.H_LOCATION,
        headers.H_PRODUCER_EPOCH,
        headers.H_PRODUCER_EXPECTED_SEQ,
        headers.H_PRODUCER_RECEIVED_SEQ,
        headers.H_PRODUCER_SEQ,
        b"Retry-After",
        headers.H_CLOSED,
        headers.H_CURSOR,
        headers.H_EXPIRES_AT,
        headers.H_NEXT_OFFSET,
        headers.H_SSE_DATA_ENCODING,
        headers.H_TTL,
        headers.H_UP_TO_DATE,
    )
)

_SECURITY: Final[tuple[Header, ...]] = (
    (b"X-Content-Type-Options", b"nosniff"),
    (b"Cross-Origin-Resource-Policy", b"cross-origin"),
)
_EXPOSE: Final[Header] = (b"Access-Control-Expose-Headers", _ANSWER_FIELDS)
_PREFLIGHT: Final[tuple[Header, ...]] = (
    ALLOW,
    (b"Access-Control-Allow-Methods", METHODS),
    (b"Access-Control-Max-Age", b"86400"),
)

# A stream's bytes are whatever a client has put there: never let a browser run them.
_SANDBOX: Final[Header] = (b"Content-Security-Policy", b"default-src 'none'; sandbox")
_ATTACHMENT: Final[Header] = (b"Content-Disposition", b"attachment")
_SHOWN: Final = frozenset((content_types.JSON, "text/plain"))

# Media types that compress. What is not here is compressed already, or unknown.
_TEXT: Final = re.compile(
    r"text/.+|.+\+(?:json|xml|yaml)|(?:application|image)/(?:x-)?"
    r"(?:json|json-seq|jsonl|ndjson|jsonlines|xml|yaml|javascript|ecmascript|sql|toml|svg|bmp)"
)

EVENT_STREAM: Final[tuple[Header, ...]] = (
    (headers.H_CONTENT_TYPE, b"text/event-stream"),
    (headers.H_CACHE_CONTROL, caching.NO_CACHE),
    # Without it some proxies hold events back until a buffer is full.
    (b"X-Accel-Buffering", b"no"),
    (b"Vary", b"Last-Event-ID"),
    _SANDBOX,
)
# A compromise between time and size; the second makes the format gzip, with the largest window.
_LEVEL: Final = 4
_GZIP: Final = zlib.MAX_WBITS | 16

BASE64: Final[Header] = (headers.H_SSE_DATA_ENCODING, b"base64")


class ResponseHeaders:
    """The fields that every answer carries, for the origins that may use the server.

    ``origins`` are origins such as ``https://app.example``, ``*`` for all, or `origins.LOCAL` for
    those of this machine. ``credentials`` are the fields that answers depend on beyond that;
    ``cookies`` says that pages of named origins may use the user's. ``request_fields`` are names of
    header fields that pages may send beside those of the protocol.
    """

    def __init__(
        self,
        origins: Collection[str] = ("*",),
        credentials: tuple[bytes, ...] = (),
        cookies: bool = False,
        request_fields: Collection[str] = (),
    ) -> None:
        named = b", ".join((*_REQUEST_FIELDS, *[name.encode("ascii") for name in request_fields]))
        self._preflight = (*_PREFLIGHT, (b"Access-Control-Allow-Headers", named))
        everybody = (b"Access-Control-Allow-Origin", b"*")
        self._narrow = "*" not in origins
        self._local = LOCAL in origins
        varies = [(b"Vary", name) for name in credentials]
        self._others = CommonHeaders(*_SECURITY, *varies, everybody, _EXPOSE)
        self._known: dict[bytes, CommonHeaders] = {}
        if self._narrow:
            varies = [(b"Vary", b", ".join((b"Origin", *credentials)))]
            self._others = CommonHeaders(*_SECURITY, *varies)
            shared = [(b"Access-Control-Allow-Credentials", b"true")] if cookies else []

            def known(origin: bytes) -> CommonHeaders:
                allowed = (b"Access-Control-Allow-Origin", origin)
                return CommonHeaders(*_SECURITY, *varies, allowed, *shared, _EXPOSE)

            self._near = lru_cache(maxsize=64)(known)
            for origin in origins:
                value = origin.encode("latin-1")
                self._known[value] = known(value)

    def common(self, origin: bytes | None) -> CommonHeaders:
        """What every answer to a request from this Origin carries."""
        if self._narrow and origin is not None:
            if self._local and is_local_origin(origin):
                return self._near(origin)
            return self._known.get(origin, self._others)
        return self._others

    def options(self, origin: bytes | None) -> Response:
        """The answer to OPTIONS, whether a browser's preflight or not."""
        return Response(204, list(self._preflight), b"", self.common(origin))

    def refusal(self, refusal: Refusal, origin: bytes | None) -> Response:
        """The answer to a request that is refused."""
        return self.complete(responses.refused(refusal), origin)

    def complete(self, answer: BufferedResponse, origin: bytes | None) -> Response:
        """An answer with what every answer carries. Takes its fields over."""
        return Response(answer.status, answer.fields, answer.body, self.common(origin))


def body_too_large(limit: int) -> Refusal:
    """What is said to a request whose body is larger than ``limit`` bytes."""
    return Refusal(Problem.BODY_TOO_LARGE, f"a body has at most {limit} bytes")


@lru_cache(maxsize=1024)
def content(content_type: str) -> tuple[Header, ...]:
    """The fields of an answer that carries a stream's own bytes."""
    kind = (headers.H_CONTENT_TYPE, content_type.encode("utf-8"))
    if content_types.essence(content_type) in _SHOWN:
        return (kind, _SANDBOX)
    return (kind, _SANDBOX, _ATTACHMENT)


@lru_cache(maxsize=1024)
def _compresses(content_type: str) -> bool:
    return _TEXT.fullmatch(content_types.essence(content_type)) is not None


def worth_gzip(content_type: str, size: int) -> bool:
    """Whether an answer of so many bytes of this type is compressed where the client likes."""
    return size >= MIN_GZIP and _compresses(content_type)


def gzip(data: bytes) -> bytes:
    """The bytes in gzip form (RFC 1952), without a date: equal bytes stay equal."""
    return zlib.compress(data, _LEVEL, _GZIP)


def gzip_encoder() -> Encoder:
    """Return what makes the same of bytes that come in pieces. It holds about 256 KiB."""
    return zlib.compressobj(_LEVEL, zlib.DEFLATED, _GZIP)
