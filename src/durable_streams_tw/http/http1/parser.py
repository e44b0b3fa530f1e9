"""Incremental parser of HTTP/1.1 requests, without I/O (RFC 9112).

A `RequestParser` queues what the bytes of one connection contain: requests in order, then at most
one `MalformedRequest`, `Handover` or `EarlyResponse`, after which it parses no more requests.
Packet boundaries make no difference.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from msgspec import Struct

from durable_streams_tw.http.chunked_body import ChunkedBody
from durable_streams_tw.http.limits import MAX_HEAD
from durable_streams_tw.http.messages import Request, Response
from durable_streams_tw.http.refusals import RefusedHead
from durable_streams_tw.http.request_head import (
    CHUNKED,
    HeadContext,
    RequestHead,
    check_start,
    read_head,
)
from durable_streams_tw.protocol.errors import Refusal, Refused

_END: Final = b"\r\n\r\n"

_CRLF: Final = b"\r\n"


class MalformedRequest(Struct, frozen=True):
    """Bytes that are no acceptable request. The connection closes after the response.

    ``origin`` is the Origin header if it could be read.
    """

    refusal: Refusal
    origin: bytes | None = None


class Handover(Struct, frozen=True):
    """Start of a request that twisted.web handles: its bytes are in `RequestParser.buffer`."""


class EarlyResponse(Struct, frozen=True):
    """Response to a request whose body is incomplete. The connection closes after it.

    ``bodiless`` is true for a HEAD request.
    """

    response: Response
    bodiless: bool


CompleteRequest = tuple[RequestHead, Request]
Item = CompleteRequest | MalformedRequest | Handover | EarlyResponse

_HANDOVER: Final = Handover()


@dataclass(slots=True, eq=False)
class RequestParser:
    """Parser of the requests of one connection.

    ``queue`` holds the parsed items; its user removes them. ``buffer`` holds the bytes of an
    incomplete head, or all bytes after a `Handover`. ``consume`` is None unless something is
    incomplete. ``received`` counts the bytes of bodies that did not arrive with their heads.

    ``awaits_continue`` is true while the client waits for 100 Continue before it sends a body;
    its user resets it. ``undecided`` is true from the start of a body until its user resets it or
    the body is complete. ``discarded`` is true once bytes after the last request were dropped.
    """

    _context: HeadContext
    queue: list[Item] = field(default_factory=list)
    buffer: bytearray = field(default_factory=bytearray)
    received: int = 0
    discarded: bool = False
    awaits_continue: bool = False
    undecided: bool = False
    # Consumer of the next bytes: returns the position where it stopped, which is before the
    # end only at the start of the next request. A function, since a bound method would be a
    # reference cycle that keeps the body until the garbage collector runs.
    consume: Callable[[RequestParser, bytes, int], int] | None = None
    # The last head and its bytes, for requests that repeat them.
    _head: RequestHead | None = None
    _raw: bytes = b""
    # Size of a request that repeats this head, with its body.
    _repeat_size: int = 0
    # Of an incomplete head: whether an empty line preceded it, whether its line is complete.
    _blank: bool = False
    _line_seen: bool = False
    _body: bytearray = field(default_factory=bytearray)
    _left: int = 0
    _chunks: ChunkedBody | None = None

    @property
    def held(self) -> int:
        """Number of bytes in incomplete and in queued requests."""
        body = self._body if self._chunks is None else self._chunks.body
        queued = sum([len(item[1].body) for item in self.queue if isinstance(item, tuple)])
        return len(self.buffer) + len(body) + queued

    @property
    def in_head(self) -> bool:
        """True while a head is incomplete."""
        return self.consume is RequestParser._consume_head

    @property
    def in_body(self) -> bool:
        """True while a body is incomplete."""
        consume = self.consume
        return consume is RequestParser._consume_body or consume is RequestParser._consume_chunks

    def release_memory(self) -> None:
        """Drop the last head before a long response."""
        if self.consume is None:
            self._raw, self._head = b"", None

    def close(self) -> None:
        """Drop everything: the connection has closed."""
        self.queue.clear()
        self._stop()
        self._raw, self._head = b"", None

    @property
    def current_head(self) -> RequestHead:
        """Head of the request whose body is incomplete."""
        assert self._head is not None, "a body follows its head"
        return self._head

    def request_without_body(self) -> Request:
        """Return the request whose body is incomplete, with an empty body."""
        return self.current_head.with_body(b"")

    def respond_early(self, response: Response) -> None:
        """Respond to the request whose body is incomplete, and parse no more."""
        self.queue[:] = [EarlyResponse(response, self.current_head.method == b"HEAD")]
        self._stop()

    def refuse(self, refusal: Refusal) -> None:
        """Refuse the incomplete request after all queued ones, and parse no more."""
        head = self._head if self.in_body else None
        origin = None if head is None else head.headers.get(b"origin")
        self.queue.append(MalformedRequest(refusal, origin))
        self._stop()

    def feed(self, data: bytes) -> CompleteRequest | None:
        """Parse received bytes; return the request if they are exactly one and none is queued.

        Otherwise queue what they complete, and return None.
        """
        start = 0
        size = len(data)
        if size == self._repeat_size and self.consume is None and data.startswith(self._raw):
            # The last request again, perhaps with another body: what most clients send.
            head = self._head
            if head is not None and not self.queue:
                return head, head.with_body(data[len(self._raw) :])
        try:
            while start < size:
                if self.consume is not None:
                    start = self.consume(self, data, start)
                    continue
                head = self._head
                if head is not None and data.startswith(self._raw, start):
                    start += len(self._raw)
                else:
                    begin = start + 2 if data.startswith(_CRLF, start) else start
                    end = data.find(_END, begin, begin + MAX_HEAD) + len(_END)
                    if end < len(_END):
                        self.consume = RequestParser._consume_head
                        continue
                    head = self._read_head(data[begin:end])
                    start = end
                stop = start + head.length
                if start <= stop <= size and head.is_stream:
                    if stop == size and head.keep_alive and not self.queue:
                        return head, head.with_body(data[start:])
                    self._complete(head, data[start:stop])
                    start = stop
                else:
                    self._begin_body(head)
        except RefusedHead as fault:
            self.queue.append(MalformedRequest(fault.refusal, fault.origin))
            self._stop()
        except Refused as fault:
            self.refuse(fault.refusal)
        return None

    def _complete(self, head: RequestHead, body: bytes) -> None:
        self.queue.append((head, head.with_body(body)))
        self.consume = None if head.keep_alive else RequestParser._discard

    # -- heads --------------------------------------------------------------------------------

    def _consume_head(self, data: bytes, start: int) -> int:
        buffer = self.buffer
        seen = len(buffer)
        buffer += memoryview(data)[start:]
        if seen < len(_CRLF) and not self._blank and buffer.startswith(_CRLF):
            # One empty line may precede a request (RFC 9112 §2.2).
            del buffer[: len(_CRLF)]
            self._blank = True
            seen = 0
        end = buffer.find(_END, max(seen - len(_END) + 1, 0), MAX_HEAD) + len(_END)
        if end < len(_END):
            self._line_seen = check_start(buffer, seen, self._line_seen)
            return len(data)
        raw = bytes(buffer[:end])
        start = len(data) - (len(buffer) - end)
        buffer.clear()
        self._blank = self._line_seen = False
        self._begin_body(self._read_head(raw))
        return start

    def _read_head(self, raw: bytes) -> RequestHead:
        head = read_head(raw, self._context, self._head)
        if head.is_stream:
            self._raw, self._head = raw, head
            self._repeat_size = len(raw) + head.length
        else:
            self.buffer += raw
        return head

    # -- bodies -------------------------------------------------------------------------------

    def _begin_body(self, head: RequestHead) -> None:
        if not head.is_stream:
            self.queue.append(_HANDOVER)
            self.consume = RequestParser._consume_handover
        elif head.length == CHUNKED:
            self._chunks = ChunkedBody(self._context.max_body)
            self.consume = RequestParser._consume_chunks
            self.awaits_continue = head.expects_continue
            self.undecided = True
        elif head.length:
            self._left = head.length
            self.consume = RequestParser._consume_body
            self.awaits_continue = head.expects_continue
            self.undecided = True
        else:
            self._complete(head, b"")

    def _consume_body(self, data: bytes, start: int) -> int:
        stop = min(start + self._left, len(data))
        self._count(stop - start)
        self._left -= stop - start
        self._body += memoryview(data)[start:stop]
        if not self._left:
            body, self._body = self._body, bytearray()
            self._end_body(body)
        return stop

    def _consume_chunks(self, data: bytes, start: int) -> int:
        chunks = self._chunks
        assert chunks is not None, "set with the consumer"
        stop = chunks.feed(data, start)
        self._count(stop - start)
        if chunks.complete:
            self._chunks = None
            self._end_body(chunks.body)
        return stop

    def _count(self, size: int) -> None:
        self.received += size
        self.awaits_continue = False

    def _end_body(self, body: bytearray) -> None:
        self.undecided = False
        self._complete(self.current_head, bytes(body))

    # -- after the last request ---------------------------------------------------------------

    def _consume_handover(self, data: bytes, start: int) -> int:
        self.buffer += memoryview(data)[start:]
        return len(data)

    def _stop(self) -> None:
        self.buffer = bytearray()
        self._body = bytearray()
        self._chunks = None
        self.awaits_continue = self.undecided = False
        self.discarded = True
        self.consume = RequestParser._discard

    def _discard(self, data: bytes, start: int) -> int:
        self.discarded = True
        return len(data)
