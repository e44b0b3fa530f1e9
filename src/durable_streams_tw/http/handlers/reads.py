"""Handler of GET: catch-up, long-poll and SSE reads (PROTOCOL.md §5.6-§5.8, §8, §10).

Catch-up reads can be conditional (ETag) and compressed (gzip).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass
from functools import partial

from twisted.internet.defer import Deferred

from durable_streams_tw.concurrency import continue_with
from durable_streams_tw.http import compression
from durable_streams_tw.http.handlers.writes import InThread
from durable_streams_tw.http.limits import INLINE_GZIP
from durable_streams_tw.http.messages import BodyProducer, Request, Response, StreamedBody
from durable_streams_tw.http.response_headers import (
    BASE64,
    EVENT_STREAM,
    ResponseHeaders,
    with_content,
)
from durable_streams_tw.live.body_output import BodySink
from durable_streams_tw.live.long_poll import LongPolls
from durable_streams_tw.live.sse.broadcaster import Broadcaster
from durable_streams_tw.live.transfers import Transfer, Transfers
from durable_streams_tw.protocol import caching, content_types, cursors, headers, json_mode
from durable_streams_tw.protocol.errors import Refusal
from durable_streams_tw.protocol.limits import MAX_POSITION
from durable_streams_tw.protocol.streams import parsing, responses, sse
from durable_streams_tw.protocol.streams.commands import LiveMode, ReadQuery
from durable_streams_tw.protocol.streams.lineage import incarnation
from durable_streams_tw.protocol.streams.offsets import NOW
from durable_streams_tw.protocol.streams.preconditions import require_match
from durable_streams_tw.protocol.streams.responses import BufferedResponse, Header
from durable_streams_tw.storage.api import Chunk, IStreamStore


@dataclass(eq=False)
class ReadHandler:
    """Handler of GET requests.

    ``wall`` returns seconds since the Unix epoch, ``random`` a number in [0, 1). ``max_chunk``
    bounds a response in bytes. With ``private``, shared caches may not store responses.
    """

    _store: IStreamStore
    _long_polls: LongPolls
    _broadcaster: Broadcaster
    _transfers: Transfers
    _response_headers: ResponseHeaders
    _: KW_ONLY
    wall: Callable[[], float]
    random: Callable[[], float]
    in_thread: InThread
    max_chunk: int | None
    private: bool

    def __post_init__(self) -> None:
        # Without a bound, a response ends at the tail at the time of the read.
        self._limit = MAX_POSITION if self.max_chunk is None else self.max_chunk

    def read(self, request: Request, path: str) -> Response | Deferred[Response]:
        """Respond to a GET. Raise `Refused` for a malformed query or a failed precondition."""
        query = parsing.parse_read(request.query)
        piece = self._transfers.piece_size.current
        if query.live is LiveMode.SSE:
            query = parsing.resume_read(query, request.headers.get(headers.LAST_EVENT_ID))
            chunk = self._store.read(path, query.offset, piece)
        else:
            chunk = self._store.read(path, query.offset, self._limit, None, piece)
        return continue_with(chunk, self._first_read, (request, query))

    def _first_read(
        self, chunk: Chunk | Refusal, context: tuple[Request, ReadQuery]
    ) -> Response | Deferred[Response]:
        request, query = context
        if isinstance(chunk, Refusal):
            return self._plain(responses.refused(chunk), request)
        if query.live is None:
            return self._content(chunk, request, query)
        if query.live is LiveMode.SSE:
            return self._events(chunk, request, query)
        if chunk.data:
            return self._content(chunk, request, query)
        require_match(request.headers.get(headers.IF_MATCH))
        if chunk.state.closed:
            return self._after_wait(chunk, context)
        result = self._long_polls.wait(chunk, self._limit, self._transfers.piece_size.current)
        return continue_with(result, self._after_wait, context)

    def _after_wait(
        self, chunk: Chunk | Refusal, context: tuple[Request, ReadQuery]
    ) -> Response | Deferred[Response]:
        request, query = context
        if isinstance(chunk, Refusal):
            return self._plain(responses.refused(chunk), request)
        if chunk.data:
            return self._content(chunk, request, query)
        return self._plain(responses.long_poll_timeout(chunk.state, self._cursor(query)), request)

    def _cursor(self, query: ReadQuery) -> int:
        return cursors.next_cursor(self.wall(), query.cursor, self.random())

    # -- catch-up and long-poll ---------------------------------------------------------------

    def _content(
        self, chunk: Chunk, request: Request, query: ReadQuery
    ) -> Response | Deferred[Response]:
        state, end = chunk.state, chunk.end
        content_type = state.content_type
        request_headers = request.headers
        common = self._response_headers.common(_origin(request))
        compressible = query.live is None and compression.is_worthwhile(
            content_type, len(chunk.data)
        )
        gzips = compressible and caching.accepts_gzip(request_headers.get(headers.ACCEPT_ENCODING))
        cursor = None if query.live is None else self._cursor(query)
        own = responses.read_headers(state, end, cursor)
        if compressible:
            own.append(compression.VARY)
        if query.offset == NOW:
            # The URL has no fixed content, so the response must not be stored.
            own.append((headers.H_CACHE_CONTROL, caching.NO_STORE))
            require_match(request_headers.get(headers.IF_MATCH))
        else:
            complete = state.closed and chunk.at_tail
            coding, other = ("gzip", "") if gzips else ("", "gzip")
            number, start = incarnation(state, end), chunk.start
            tag = caching.etag(number, start, end, complete, coding)
            own.append((headers.H_ETAG, tag))
            own.append((headers.H_CACHE_CONTROL, self._directives(chunk)))
            if headers.IF_MATCH in request_headers:
                alternate = caching.etag(number, start, end, complete, other)
                require_match(request_headers[headers.IF_MATCH], tag, alternate)
            if caching.matches_etag(request_headers.get(headers.IF_NONE_MATCH), tag):
                return Response(304, own, b"", common)
        common = with_content(common, content_type)
        if chunk.more:
            return Response(200, own, self._streamed(chunk, own, gzips), common)
        body = json_mode.document(chunk.data) if content_types.is_json(content_type) else chunk.data
        if not gzips:
            return Response(200, own, body, common)
        own.append(compression.CONTENT_ENCODING)
        if len(body) <= INLINE_GZIP:
            return Response(200, own, compression.gzip(body), common)
        compressed: Deferred[bytes] = self.in_thread(compression.gzip, body)
        return compressed.addCallback(lambda data: Response(200, own, data, common))

    def _streamed(self, chunk: Chunk, own: list[Header], gzips: bool) -> StreamedBody:
        """Return the body of a response longer than one piece."""
        size = chunk.end - chunk.start
        if content_types.is_json(chunk.state.content_type):
            size = json_mode.document_size(size)
        if gzips:
            own.append(compression.CONTENT_ENCODING)

        def begin(sink: BodySink) -> BodyProducer:
            encoder = compression.gzip_encoder() if gzips else None
            return Transfer(self._transfers, chunk, encoder, sink)

        return StreamedBody(begin, None if gzips else size)

    def _directives(self, chunk: Chunk) -> bytes:
        state = chunk.state
        if not chunk.data and not state.closed:
            # An empty response must not be cached: a client that reads again expects new bytes.
            return caching.NO_CACHE
        lifetime = state.lifetime
        seconds_left: float | None = None
        if lifetime.ttl is not None:
            seconds_left = lifetime.ttl
        elif lifetime.expires_at is not None:
            seconds_left = lifetime.expires_at / 1000 - self.wall()
        return caching.cache_control(self.private, seconds_left)

    # -- SSE -----------------------------------------------------------------------------

    def _events(self, chunk: Chunk, request: Request, query: ReadQuery) -> Response:
        require_match(request.headers.get(headers.IF_MATCH))
        ended = not chunk.data and chunk.state.closed
        if ended and request.headers.get(headers.LAST_EVENT_ID):
            return self._plain(responses.event_source_end(chunk.state), request)
        own: list[Header] = list(EVENT_STREAM)
        if sse.framing(chunk.state.content_type) is sse.Framing.BASE64:
            own.append(BASE64)
        if ended:
            own.extend(responses.read_headers(chunk.state, chunk.end, None))
        follow = partial(self._broadcaster.subscribe, chunk, query.cursor)
        return Response(200, own, follow, self._response_headers.common(_origin(request)))

    def _plain(self, answer: BufferedResponse, request: Request) -> Response:
        return self._response_headers.complete(answer, _origin(request))


def _origin(request: Request) -> bytes | None:
    return request.headers.get(headers.ORIGIN)
