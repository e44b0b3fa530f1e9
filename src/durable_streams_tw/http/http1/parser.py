"""HTTP/1.1 requests out of bytes, without I/O (RFC 9112).

Whatever comes is fed to a `RequestParser`; what is complete lies in its queue, in order: requests,
then at most one `MalformedRequest` or `Foreign`, after which nothing is read as a request. How the
bytes were split makes no difference.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from msgspec import Struct

from durable_streams_tw.http.http1.chunked import ChunkedBody
from durable_streams_tw.http.http1.head import RequestHead, check_start, read_head
from durable_streams_tw.http.http1.header_section import CHUNKED, HeadContext, RefusedHead
from durable_streams_tw.http.limits import MAX_HEAD
from durable_streams_tw.http.messages import Request, Response
from durable_streams_tw.protocol.errors import Refusal, Refused

_END: Final = b"\r\n\r\n"

_CRLF: Final = b"\r\n"


class MalformedRequest(Struct, frozen=True):
    """The bytes are no request that may be served. The connection ends with the answer.

    ``origin`` is the request's Origin, as far as it is known.
    """

    refusal: Refusal
    origin: bytes | None = None


class Foreign(Struct, frozen=True):
    """What follows is not for a stream: all bytes from there on are in `RequestParser.rest`."""


class Early(Struct, frozen=True):
    """A request is answered before its body has come. The connection ends with the answer."""

    response: Response
    bodiless: bool


Message = tuple[RequestHead, Request]
Item = Message | MalformedRequest | Foreign | Early

_FOREIGN: Final = Foreign()


class RequestParser:
    """The requests of one connection.

    ``ready`` is the queue, which its user empties. ``rest`` holds the bytes of a head that is
    not complete, or all those of what is `Foreign`. ``open`` is None where nothing is
    incomplete. ``received`` counts the bytes of bodies that did not come in one piece with
    their heads. ``expecting`` is true while a client
    waits for a word (100 Continue) before it sends a body; its user resets it. ``undecided``
    is true once a body has begun, until its user resets it or the body is complete. ``dropped``
    says that bytes have come behind the end.
    """

    __slots__ = (
        "_around",
        "_blank",
        "_body",
        "_chunks",
        "_head",
        "_left",
        "_line_seen",
        "_raw",
        "dropped",
        "expecting",
        "open",
        "ready",
        "received",
        "rest",
        "undecided",
    )

    def __init__(self, around: HeadContext) -> None:
        self._around = around
        self.ready: list[Item] = []
        self.rest = bytearray()
        self.received = 0
        self.dropped = False
        self.expecting = False
        self.undecided = False
        # What takes bytes while something is not complete. It returns where it has stopped,
        # and stops within the bytes only where the next request begins. A function and not a
        # bound method: that would be a reference cycle, which keeps a body's bytes until the
        # collector comes by.
        self.open: Callable[[RequestParser, bytes, int], int] | None = None
        # The head that was read last, and its bytes: requests often differ in their bodies
        # alone, and equal bytes mean the same.
        self._head: RequestHead | None = None
        self._raw = b""
        # Of an incomplete head: whether an empty line came before it, and its first line.
        self._blank = False
        self._line_seen = False
        self._body = bytearray()
        self._left = 0
        self._chunks: ChunkedBody | None = None

    @property
    def held(self) -> int:
        """How many bytes wait: for others that belong to them, or for their turn."""
        body = self._body if self._chunks is None else self._chunks.body
        queued = sum([len(item[1].body) for item in self.ready if isinstance(item, tuple)])
        return len(self.rest) + len(body) + queued

    @property
    def in_head(self) -> bool:
        """Whether a head has begun and is not complete."""
        return self.open is RequestParser._more_head

    @property
    def in_body(self) -> bool:
        """Whether a head is complete and its body is not."""
        return self.open is RequestParser._more_body or self.open is RequestParser._more_chunks

    def forget(self) -> None:
        """Give the memory of the last head back: nothing will come for long."""
        if self.open is None:
            self._raw, self._head = b"", None

    def close(self) -> None:
        """Release every byte: the connection has ended."""
        self.ready.clear()
        self._end()
        self._raw, self._head = b"", None

    @property
    def begun(self) -> RequestHead:
        """The head of the request whose body is coming."""
        assert self._head is not None, "it is the one that was read last"
        return self._head

    def head_alone(self) -> Request:
        """Return the request whose body is coming, without it."""
        head = self.begun
        return Request(head.method, head.root, head.path, head.query, head.header, b"", head.url)

    def reject(self, response: Response) -> None:
        """Answer the request whose body is coming, and take nothing after it."""
        self.ready[:] = [Early(response, self.begun.method == b"HEAD")]
        self._end()

    def refuse(self, refusal: Refusal) -> None:
        """Give up what is not complete, and say so behind what is."""
        head = self._head if self.in_body else None
        origin = None if head is None else head.header.get(b"origin")
        self.ready.append(MalformedRequest(refusal, origin))
        self._end()

    def feed(self, data: bytes) -> None:
        """Take bytes that have come."""
        start = 0
        size = len(data)
        try:
            while start < size:
                if self.open is not None:
                    start = self.open(self, data, start)
                    continue
                head = self._head
                if head is not None and data.startswith(self._raw, start):
                    start += len(self._raw)
                else:
                    begin = start + 2 if data.startswith(_CRLF, start) else start
                    end = data.find(_END, begin, begin + MAX_HEAD) + len(_END)
                    if end < len(_END):
                        self.open = RequestParser._more_head
                        continue
                    head = self._understand(data[begin:end])
                    start = end
                stop = start + head.length
                if start <= stop <= size and head.stream:
                    self._complete(head, data[start:stop])
                    start = stop
                else:
                    self._begin_body(head)
        except RefusedHead as fault:
            self.ready.append(MalformedRequest(fault.refusal, fault.origin))
            self._end()
        except Refused as fault:
            self.refuse(fault.refusal)

    def _complete(self, head: RequestHead, body: bytes) -> None:
        request = Request(
            head.method, head.root, head.path, head.query, head.header, body, head.url
        )
        self.ready.append((head, request))
        self.open = None if head.keep else RequestParser._drop

    # -- heads --------------------------------------------------------------------------------

    def _more_head(self, data: bytes, start: int) -> int:
        rest = self.rest
        seen = len(rest)
        rest += memoryview(data)[start:]
        if seen < len(_CRLF) and not self._blank and rest.startswith(_CRLF):
            # One empty line may come before a request (RFC 9112 §2.2).
            del rest[: len(_CRLF)]
            self._blank = True
            seen = 0
        end = rest.find(_END, max(seen - len(_END) + 1, 0), MAX_HEAD) + len(_END)
        if end < len(_END):
            self._line_seen = check_start(rest, seen, self._line_seen)
            return len(data)
        raw = bytes(rest[:end])
        start = len(data) - (len(rest) - end)
        rest.clear()
        self._blank = self._line_seen = False
        self._begin_body(self._understand(raw))
        return start

    def _understand(self, raw: bytes) -> RequestHead:
        head = read_head(raw, self._around, self._head)
        if head.stream:
            self._raw, self._head = raw, head
        else:
            self.rest += raw
        return head

    # -- bodies -------------------------------------------------------------------------------

    def _begin_body(self, head: RequestHead) -> None:
        if not head.stream:
            self.ready.append(_FOREIGN)
            self.open = RequestParser._more_foreign
        elif head.length == CHUNKED:
            self._chunks = ChunkedBody(self._around.max_body)
            self.open = RequestParser._more_chunks
            self.expecting = head.expects
            self.undecided = True
        elif head.length:
            self._left = head.length
            self.open = RequestParser._more_body
            self.expecting = head.expects
            self.undecided = True
        else:
            self._complete(head, b"")

    def _more_body(self, data: bytes, start: int) -> int:
        stop = min(start + self._left, len(data))
        self._receive(stop - start)
        self._left -= stop - start
        self._body += memoryview(data)[start:stop]
        if not self._left:
            body, self._body = self._body, bytearray()
            self._end_body(body)
        return stop

    def _more_chunks(self, data: bytes, start: int) -> int:
        chunks = self._chunks
        assert chunks is not None, "a body in chunks has been begun"
        stop = chunks.take(data, start)
        self._receive(stop - start)
        if chunks.complete:
            self._chunks = None
            self._end_body(chunks.body)
        return stop

    def _receive(self, size: int) -> None:
        self.received += size
        self.expecting = False

    def _end_body(self, body: bytearray) -> None:
        self.undecided = False
        self._complete(self.begun, bytes(body))

    # -- ends ---------------------------------------------------------------------------------

    def _more_foreign(self, data: bytes, start: int) -> int:
        self.rest += memoryview(data)[start:]
        return len(data)

    def _end(self) -> None:
        self.rest = bytearray()
        self._body = bytearray()
        self._chunks = None
        self.expecting = self.undecided = False
        self.dropped = True
        self.open = RequestParser._drop

    def _drop(self, data: bytes, start: int) -> int:
        self.dropped = True
        return len(data)
