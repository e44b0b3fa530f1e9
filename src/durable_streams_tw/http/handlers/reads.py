"""GET: catch-up, long-poll and SSE reads, conditional and compressed (PROTOCOL.md §5.6-§5.8,
§8, §10)."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from twisted.internet.defer import Deferred

from durable_streams_tw.http import headers as http_headers
from durable_streams_tw.http.handlers.deferred_result import promptly
from durable_streams_tw.http.handlers.writes import InThread
from durable_streams_tw.http.headers import ResponseHeaders
from durable_streams_tw.http.limits import INLINE_GZIP
from durable_streams_tw.http.messages import BodyProducer, Request, Response, StreamedBody
from durable_streams_tw.live.body_output import BodySink
from durable_streams_tw.live.long_poll import LongPolls
from durable_streams_tw.live.sse.broadcaster import Broadcaster
from durable_streams_tw.live.transfers import Transfers
from durable_streams_tw.protocol import caching, content_types, cursors, headers, json_mode
from durable_streams_tw.protocol.errors import Refusal
from durable_streams_tw.protocol.limits import MAX_POSITION
from durable_streams_tw.protocol.streams import parsing, responses, sse
from durable_streams_tw.protocol.streams.commands import LiveMode, ReadQuery
from durable_streams_tw.protocol.streams.lineage import incarnation
from durable_streams_tw.protocol.streams.offsets import NOW
from durable_streams_tw.protocol.streams.responses import BufferedResponse, Header
from durable_streams_tw.storage.api import Chunk, IStreamStore


class ReadHandler:
    """Answers GET.

    ``seconds`` tells the time in seconds since 1970, ``random`` gives numbers in [0, 1).
    Methods raise `Refused` where the query is malformed.
    """

    def __init__(
        self,
        store: IStreamStore,
        long_polls: LongPolls,
        fanout: Broadcaster,
        transfers: Transfers,
        common: ResponseHeaders,
        *,
        seconds: Callable[[], float],
        random: Callable[[], float],
        in_thread: InThread,
        max_chunk: int | None,
        private: bool,
    ) -> None:
        self._store = store
        self._long_polls = long_polls
        self._fanout = fanout
        self._transfers = transfers
        self._policies = common
        self._seconds = seconds
        self._random = random
        self._in_thread = in_thread
        # Without a bound an answer goes to the tail that it finds.
        self._limit = MAX_POSITION if max_chunk is None else max_chunk
        self._private = private

    def read(self, request: Request, path: str) -> Response | Deferred[Response]:
        """Answer a GET."""
        query = parsing.parse_read(request.query)
        piece = self._transfers.piece_size.current
        if query.live is LiveMode.SSE:
            query = parsing.resume_read(query, request.headers.get(headers.LAST_EVENT_ID))
            chunk = self._store.read(path, query.offset, piece)
        else:
            chunk = self._store.read(path, query.offset, self._limit, None, piece)
        return promptly(chunk, self._looked, (request, query))

    def _looked(
        self, chunk: Chunk | Refusal, asked: tuple[Request, ReadQuery]
    ) -> Response | Deferred[Response]:
        request, query = asked
        if isinstance(chunk, Refusal):
            return self._plain(responses.refused(chunk), request)
        if query.live is None:
            return self._content(chunk, request, query)
        if query.live is LiveMode.SSE:
            return self._events(chunk, request, query)
        if chunk.data or chunk.state.closed:
            return self._news(chunk, asked)
        waited = self._long_polls.wait(chunk, self._limit, self._transfers.piece_size.current)
        return promptly(waited, self._news, asked)

    def _news(
        self, chunk: Chunk | Refusal, asked: tuple[Request, ReadQuery]
    ) -> Response | Deferred[Response]:
        request, query = asked
        if isinstance(chunk, Refusal):
            return self._plain(responses.refused(chunk), request)
        if chunk.data:
            return self._content(chunk, request, query)
        return self._plain(responses.long_poll_timeout(chunk.state, self._cursor(query)), request)

    def _cursor(self, query: ReadQuery) -> int:
        return cursors.next_cursor(self._seconds(), query.cursor, self._random())

    # -- bytes ------------------------------------------------------------------------------

    def _content(
        self, chunk: Chunk, request: Request, query: ReadQuery
    ) -> Response | Deferred[Response]:
        state = chunk.state
        kind = state.content_type
        header = request.headers
        common = self._policies.common(_origin(request))
        may_zip = query.live is None and http_headers.worth_gzip(kind, len(chunk.data))
        zips = may_zip and caching.accepts_gzip(header.get(headers.ACCEPT_ENCODING))
        cursor = None if query.live is None else self._cursor(query)
        about = responses.read_headers(state, chunk.end, cursor)
        if may_zip:
            about.append(http_headers.VARY_ENCODING)
        if query.offset == NOW:
            # The same URL means other bytes a moment later.
            about.append((headers.H_CACHE_CONTROL, caching.NO_STORE))
        else:
            ends = state.closed and chunk.at_tail
            tag = caching.etag(
                incarnation(state, chunk.end), chunk.start, chunk.end, ends, "gzip" if zips else ""
            )
            about.append((headers.H_ETAG, tag))
            about.append((headers.H_CACHE_CONTROL, self._directives(chunk)))
            if caching.matches_etag(header.get(headers.IF_NONE_MATCH), tag):
                return Response(304, about, b"", common)
        about.extend(http_headers.content(kind))
        if chunk.more:
            return Response(200, about, self._streamed(chunk, about, zips), common)
        body = json_mode.document(chunk.data) if content_types.is_json(kind) else chunk.data
        if not zips:
            return Response(200, about, body, common)
        about.append(http_headers.GZIPPED)
        if len(body) <= INLINE_GZIP:
            return Response(200, about, http_headers.gzip(body), common)
        zipped: Deferred[bytes] = self._in_thread(http_headers.gzip, body)
        return zipped.addCallback(lambda small: Response(200, about, small, common))

    def _streamed(self, chunk: Chunk, about: list[Header], zips: bool) -> StreamedBody:
        """Return the body of an answer that is longer than one piece."""
        size = chunk.end - chunk.start
        if content_types.is_json(chunk.state.content_type):
            size = json_mode.document_size(size)
        if zips:
            about.append(http_headers.GZIPPED)

        def begin(sink: BodySink) -> BodyProducer:
            encoder = http_headers.gzip_encoder() if zips else None
            return self._transfers.begin(chunk, encoder, sink)

        return StreamedBody(begin, None if zips else size)

    def _directives(self, chunk: Chunk) -> bytes:
        state = chunk.state
        if not chunk.data and not state.closed:
            # Nothing yet is nothing to keep: who asks again wants to know.
            return caching.NO_CACHE
        lifetime = state.lifetime
        left: float | None = None
        if lifetime.ttl is not None:
            left = lifetime.ttl
        elif lifetime.expires_at is not None:
            left = lifetime.expires_at / 1000 - self._seconds()
        return caching.cache_control(self._private, left)

    # -- events -----------------------------------------------------------------------------

    def _events(self, chunk: Chunk, request: Request, query: ReadQuery) -> Response:
        ended = not chunk.data and chunk.state.closed
        if ended and request.headers.get(headers.LAST_EVENT_ID):
            return self._plain(responses.event_source_end(chunk.state), request)
        about: list[Header] = list(http_headers.EVENT_STREAM)
        if sse.framing(chunk.state.content_type) is sse.Framing.BASE64:
            about.append(http_headers.BASE64)
        if ended:
            about.extend(responses.read_headers(chunk.state, chunk.end, None))
        follow = partial(self._fanout.subscribe, chunk, query.cursor)
        return Response(200, about, follow, self._policies.common(_origin(request)))

    def _plain(self, answer: BufferedResponse, request: Request) -> Response:
        return self._policies.complete(answer, _origin(request))


def _origin(request: Request) -> bytes | None:
    return request.headers.get(headers.ORIGIN)
