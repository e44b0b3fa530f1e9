"""Header policies of responses: CORS, security, caching (PROTOCOL.md §10.1, §12.3, §12.7)."""

from __future__ import annotations

from collections.abc import Collection
from functools import lru_cache
from typing import Final

from durable_streams_tw.auth.origins import LOCAL, is_local_origin
from durable_streams_tw.http.messages import CommonHeaders, Response
from durable_streams_tw.protocol import caching, content_types, headers
from durable_streams_tw.protocol.errors import Refusal
from durable_streams_tw.protocol.streams import responses
from durable_streams_tw.protocol.streams.responses import BufferedResponse, Header

METHODS: Final = b"GET, HEAD, POST, PUT, DELETE, OPTIONS"
ALLOW: Final[Header] = (b"Allow", METHODS)

#: Request headers that CORS allows, besides those in the setting cors-headers.
_REQUEST_HEADERS: Final = (
    b"Accept, Authorization, Cache-Control, Content-Type, If-Match, If-None-Match, Last-Event-ID, "
    b"Producer-Epoch, Producer-Id, Producer-Seq, Stream-Closed, Stream-Expires-At, "
    b"Stream-Fork-Offset, Stream-Fork-Sub-Offset, Stream-Forked-From, Stream-Seq, Stream-TTL, "
    # W3C Trace Context, which browser instrumentation adds to every request.
    b"traceparent, tracestate"
)

#: Response headers that CORS exposes to pages.
_RESPONSE_HEADERS: Final = (
    b"ETag, Location, Producer-Epoch, Producer-Expected-Seq, Producer-Received-Seq, Producer-Seq, "
    b"Retry-After, Stream-Closed, Stream-Cursor, Stream-Expires-At, Stream-Next-Offset, "
    b"Stream-SSE-Data-Encoding, Stream-TTL, Stream-Up-To-Date"
)

_SECURITY: Final[tuple[Header, ...]] = (
    (b"X-Content-Type-Options", b"nosniff"),
    (b"Cross-Origin-Resource-Policy", b"cross-origin"),
)
_EXPOSE: Final[Header] = (b"Access-Control-Expose-Headers", _RESPONSE_HEADERS)
_PREFLIGHT: Final[tuple[Header, ...]] = (
    ALLOW,
    (b"Access-Control-Allow-Methods", METHODS),
    (b"Access-Control-Max-Age", b"86400"),
)

# Any writer chooses a stream's bytes, so a browser must not run them as a page of this origin.
_SANDBOX: Final[Header] = (b"Content-Security-Policy", b"default-src 'none'; sandbox")
_ATTACHMENT: Final[Header] = (b"Content-Disposition", b"attachment")
_INLINE_TYPES: Final = frozenset((content_types.JSON, "text/plain"))

EVENT_STREAM: Final[tuple[Header, ...]] = (
    (headers.H_CONTENT_TYPE, b"text/event-stream"),
    (headers.H_CACHE_CONTROL, caching.NO_CACHE),
    # Without it, nginx buffers events.
    (b"X-Accel-Buffering", b"no"),
    (b"Vary", b"Last-Event-ID"),
    _SANDBOX,
)
BASE64: Final[Header] = (headers.H_SSE_DATA_ENCODING, b"base64")


class ResponseHeaders:
    """Headers of every response, by the Origin of its request.

    ``origins`` are allowed origins (``https://app.example``), ``*`` for all, or `origins.LOCAL`
    for loopback origins. ``vary`` names the request headers that responses depend on besides
    Origin. With ``cookies``, pages of named origins may send cookies. ``request_headers`` are
    allowed in requests besides those of the protocol.
    """

    def __init__(
        self,
        origins: Collection[str] = ("*",),
        vary: tuple[bytes, ...] = (),
        cookies: bool = False,
        request_headers: Collection[str] = (),
    ) -> None:
        named = [name.encode("ascii") for name in request_headers]
        allowed_headers = b", ".join((_REQUEST_HEADERS, *named))
        self._preflight = (*_PREFLIGHT, (b"Access-Control-Allow-Headers", allowed_headers))
        any_origin = (b"Access-Control-Allow-Origin", b"*")
        self._restricted = "*" not in origins
        self._local = LOCAL in origins
        varies = [(b"Vary", name) for name in vary]
        self._default = CommonHeaders(*_SECURITY, *varies, any_origin, _EXPOSE)
        self._by_origin: dict[bytes, CommonHeaders] = {}
        if self._restricted:
            varies = [(b"Vary", b", ".join((b"Origin", *vary)))]
            self._default = CommonHeaders(*_SECURITY, *varies)
            credentials = [(b"Access-Control-Allow-Credentials", b"true")] if cookies else []

            def for_origin(origin: bytes) -> CommonHeaders:
                allowed = (b"Access-Control-Allow-Origin", origin)
                return CommonHeaders(*_SECURITY, *varies, allowed, *credentials, _EXPOSE)

            self._local_origin = lru_cache(maxsize=64)(for_origin)
            for origin in origins:
                value = origin.encode("latin-1")
                self._by_origin[value] = for_origin(value)

    def common(self, origin: bytes | None) -> CommonHeaders:
        """Return the headers of every response to a request with this Origin header."""
        if self._restricted and origin is not None:
            if self._local and is_local_origin(origin):
                return self._local_origin(origin)
            return self._by_origin.get(origin, self._default)
        return self._default

    def options(self, origin: bytes | None) -> Response:
        """Return the response to OPTIONS, a CORS preflight or not."""
        return Response(204, list(self._preflight), b"", self.common(origin))

    def refusal(self, refusal: Refusal, origin: bytes | None) -> Response:
        """Return the response to a refused request."""
        return self.complete(responses.refused(refusal), origin)

    def complete(self, answer: BufferedResponse, origin: bytes | None) -> Response:
        """Add the headers of every response to ``answer``, whose list of headers is reused."""
        return Response(answer.status, answer.headers, answer.body, self.common(origin))


@lru_cache(maxsize=1024)
def with_content(common: CommonHeaders, content_type: str) -> CommonHeaders:
    """Return the common headers of responses with a stream's bytes."""
    kind = (headers.H_CONTENT_TYPE, content_type.encode("utf-8"))
    inline = content_types.essence(content_type) in _INLINE_TYPES
    disposition = () if inline else (_ATTACHMENT,)
    return CommonHeaders(kind, _SANDBOX, *disposition, *common.headers)
