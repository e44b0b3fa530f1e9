"""The fast channel: one HTTP/1.1 connection, between a `RequestParser` and the stream operations.

1. Requests of one connection are carried out one by one, in their order: what a client sends
   behind an append may build on it.
2. The answers of all that is answered at once go out in one send.
3. While the client does not read, nothing more is taken from it; the transport's pauses, which
   reach the channel as its producer, govern both.
4. What is not a stream's affair goes to a site of twisted.web's, with the connection, for good.
5. Whatever ends the connection from here, the client is given time to read the last answer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IHalfCloseableProtocol, IPushProducer
from twisted.internet.protocol import connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from durable_streams_tw.http import limits
from durable_streams_tw.http.handlers.streams import Decision, Respond
from durable_streams_tw.http.http1 import response as http1_response
from durable_streams_tw.http.http1.connection_phases import (
    ANSWER,
    END,
    IDLE,
    UNSETTLED,
    PhasedConnection,
)
from durable_streams_tw.http.http1.head import RequestHead
from durable_streams_tw.http.http1.parser import Early, Foreign, MalformedRequest, RequestParser
from durable_streams_tw.http.http1.socket_writer import SocketWriter
from durable_streams_tw.http.http1.streaming import StreamingResponse
from durable_streams_tw.http.messages import Response, StreamedBody

if TYPE_CHECKING:
    from durable_streams_tw.http.http1.factory import Http1Factory


_log = Logger()

# A body of this size is sent from where it lies, with all that was gathered before it.
_GATHER: Final = 64 * limits.KIB


class Backlog:
    """What one client leaves unread, for the budget of all."""

    __slots__ = ("_channel", "held")

    def __init__(self, channel: Http1Connection) -> None:
        self.held = 0
        self._channel = channel

    def refuse_body(self) -> None:
        """Cut the connection."""
        self._channel.give_up()


@implementer(IPushProducer, IHalfCloseableProtocol)
class Http1Connection(PhasedConnection):
    """One connection of a `Http1Factory`."""

    def __init__(self, door: Http1Factory, address: Any) -> None:
        PhasedConnection.__init__(self, door, address)
        self._out: list[bytes] = []
        self._heir: Any = None
        # What the answer waits for.
        self._pending: Deferred[Any] | None = None
        # What answers the request whose body is coming, once its head was found good.
        self._admitted: Respond | None = None
        self._working = False
        self._gone = False
        self._discarded = 0
        # What the client leaves unread, while the transport is full.
        self._backlog: Backlog | None = None

    # -- Protocol -------------------------------------------------------------------------------

    def connectionMade(self) -> None:
        """A client has come."""
        door = self._door
        self._respond = door.serving(getattr(self.address, "host", None))
        self._outlet = outlet = SocketWriter(self.transport)
        self._wire = RequestParser(door.surroundings(outlet.secure, outlet.reached()))
        if outlet.secure:
            # What is spoken is known only once the client has spoken.
            self._detour = Http1Connection._negotiated
        self.transport.registerProducer(self, True)
        door.arrived(self)
        self._enter(IDLE)

    def dataReceived(self, data: bytes) -> None:
        """Bytes have come."""
        if self._detour is not None:
            self._detour(self, data)
            return
        wire = self._wire
        wire.feed(data)
        if wire.ready and self._head is None and not self._stalled:
            self._work()
        # Most requests come whole, and are answered at once, or wait for nothing but that.
        phase = self.phase
        idle = phase is IDLE and wire.open is None
        if not idle and (phase is not ANSWER or not self._quiet):
            self._settle()

    def readConnectionLost(self) -> None:
        """The client will send no more. It may still read, or be gone: both look the same."""
        self._half = True
        if self._heir is not None:
            # twisted.web takes this for the end. What it has sent shall arrive.
            self._detour = Http1Connection._discard
            self._enter(END)
            self.transport.loseConnection()
        elif self.phase is END:
            self.transport.loseConnection()
        else:
            self.phase = UNSETTLED
            self._settle()

    def writeConnectionLost(self) -> None:
        """Our side is closed, as we wanted."""

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """The connection has ended."""
        self._gone = True
        self.phase = END
        self._detour = Http1Connection._discard
        heir, self._heir = self._heir, None
        live, self._live = self._live, None
        pending, self._pending = self._pending, None
        self._wire.close()
        self._out.clear()
        if heir is not None:
            heir.connectionLost(reason)
        if live is not None:
            live.stop()
        if pending is not None:
            pending.cancel()
        self._hold(0)
        self._release_backlog()
        self._door.left(self)

    # -- IPushProducer, for the transport -------------------------------------------------------

    def pauseProducing(self) -> None:
        """The transport is full."""
        self._stalled = True
        self._count_backlog()
        if self._live is not None:
            self._live.pause()
        if self._working:
            self.phase = UNSETTLED
        else:
            self._settle()

    def resumeProducing(self) -> None:
        """The transport is empty again."""
        self._stalled = False
        self._release_backlog()
        if self._live is not None:
            self._live.resume()
        self._go_on()

    def _count_backlog(self) -> None:
        backlog = self._backlog
        if backlog is None and not self._gone:
            backlog = self._backlog = Backlog(self)
        unread = self._door.unread
        if backlog is not None and not unread.account(backlog, self._outlet.unsent, True):
            backlog.refuse_body()

    def _release_backlog(self) -> None:
        backlog, self._backlog = self._backlog, None
        if backlog is not None:
            self._door.unread.account(backlog, 0, arriving=False)

    def give_up(self) -> None:
        """Cut the connection, to make room for what others leave unread."""
        self._release_backlog()
        # A transport may be in the middle of a write.
        self._door.later(self._cut_if_there)

    def _cut_if_there(self) -> None:
        if not self._gone:
            self.cut()

    def stopProducing(self) -> None:
        """The transport is gone; `connectionLost` comes next."""

    # -- requests and answers -------------------------------------------------------------------

    @property
    def _quiet(self) -> bool:
        """Whether nothing but an answer keeps the connection from being idle."""
        wire = self._wire
        if wire.ready or wire.open is not None or self._detour is not None:
            return False
        if self.held or self._answering:
            return False
        return not (self._stalled or self._paused or self._half)

    @property
    def _free(self) -> bool:
        """Whether nothing stands in the way of the next request."""
        return self._head is None and self._detour is None and not self._stalled

    def _go_on(self) -> None:
        """Work on what waits, if nothing stands in the way."""
        if self._wire.ready and self._free:
            self._work()
        elif self._out:
            self._door.send_soon(self)
        self._settle()

    def _work(self) -> None:
        """Answer what is complete, in order, until an answer takes time."""
        door = self._door
        respond = self._respond
        ready = self._wire.ready
        self.phase = UNSETTLED
        self._working = True
        done = 0
        for item in ready:
            if done == limits.MAX_PIPELINE:
                # Others want their turn too.
                door.later(self._go_on)
                break
            done += 1
            if not isinstance(item, tuple):
                self._end(item)
                break
            head, request = item
            if head.refusal is not None:
                self._answer(head, door.refuse(head.refusal, head.header.get(b"origin")))
            else:
                if self._admitted is None:
                    answer = respond(request)
                else:
                    answer, self._admitted = self._admitted(request), None
                if not isinstance(answer, Response):
                    self._head, self._pending = head, answer
                    if len(request.body) >= limits.LARGE_BODY:
                        self._answering = len(request.body)
                    answer.addCallbacks(self._answered, self._failed)
                else:
                    self._answer(head, answer)
            if self._head is not None or self._stalled or self._detour is not None:
                break
        else:
            if not self.held:
                self.phase = IDLE
                self._since = self._wheel.now
        del ready[:done]
        if self._pending is not None and self._quiet:
            # The wheel looks in by itself, for both phases have the same patience.
            self.phase = ANSWER
            self._since = self._wheel.now
        if self._out:
            door.send_soon(self)
        self._working = False

    def _answered(self, response: Response) -> None:
        """What an answer has waited for is there."""
        head, self._head, self._pending = self._head, None, None
        self._answering = 0
        if head is None or self._gone:
            return
        try:
            self._since = self._wheel.now
            self._answer(head, response)
            if self._working:
                return
            if self.phase is ANSWER and self._live is None and self._quiet:
                self.phase = IDLE
                self._door.send_soon(self)
            else:
                self._go_on()
        except Exception:  # noqa: BLE001 - nobody else would hear of it
            _log.failure("a connection has met a bug, and ends")
            self.cut()

    def _failed(self, failure: Failure) -> None:
        head = self._head
        if head is not None and not self._gone:
            self._answered(self._door.failure(failure, head.header.get(b"origin")))

    def _decide(self) -> bool:
        wire = self._wire
        wire.undecided = False
        head = wire.begun
        origin = head.header.get(b"origin")
        if head.refusal is not None:
            if not wire.expecting:
                # The end of the body is known, so the connection can go on after it.
                return False
            return self._decided(self._door.refuse(head.refusal, origin))
        host = getattr(self.address, "host", None)
        decision = self._door.decide(host, wire.head_alone())
        if not isinstance(decision, Deferred):
            return self._decided(decision)
        self._head, self._pending = head, decision
        decision.addCallbacks(self._decided_later, self._failed_to_decide)
        if self._pending is not None:
            self._settle()
        return True

    def _decided(self, decision: Decision) -> bool:
        if isinstance(decision, Response):
            self._wire.reject(decision)
            self._go_on()
            return True
        self._admitted = decision
        return False

    def _decided_later(self, decision: Decision) -> None:
        self._head = self._pending = None
        if not self._gone and not self._decided(decision):
            self._go_on()

    def _failed_to_decide(self, failure: Failure) -> None:
        head = self._head
        if head is not None and not self._gone:
            self._decided_later(self._door.failure(failure, head.header.get(b"origin")))

    def _answer(self, head: RequestHead, response: Response) -> None:
        door = self._door
        last = not head.keep or door.stopping
        body = response.body
        opening = door.openings.opening(response.status)
        rest = b""
        size: int | None = None
        try:
            if isinstance(body, bytes):
                data, rest = http1_response.whole(
                    opening,
                    response,
                    body,
                    bodiless=head.method == b"HEAD",
                    old=head.old,
                    last=last,
                )
            else:
                ends = isinstance(body, StreamedBody)
                size = body.size if isinstance(body, StreamedBody) else None
                data = http1_response.live(opening, response, size, old=head.old, last=last)
        except http1_response.InvalidHeader:
            self._answer(head, door.failure(Failure(), head.header.get(b"origin")))
            return
        self._out.append(data)
        if rest:
            self._out.append(rest)
        if len(rest) >= _GATHER:
            out, self._out = self._out, []
            self._outlet.send_parts(out)
        if not isinstance(body, bytes):
            self.flush()
            self._head = head
            frames = None if head.old or size is not None else door.frames
            self._live = StreamingResponse(self, frames, sized=size is not None, ends=ends)
            self._wire.forget()
            self._live.follow(body.follow if isinstance(body, StreamedBody) else body)
        elif last:
            self._close()

    def flush(self) -> None:
        """Send what has been gathered."""
        out = self._out
        if out:
            data = out[0] if len(out) == 1 else b"".join(out)
            out.clear()
            self._outlet.send(data)

    # -- ends -----------------------------------------------------------------------------------

    def _end(self, item: MalformedRequest | Foreign | Early) -> None:
        """Take what no request comes behind."""
        if not isinstance(item, Foreign):
            bodiless = False
            if isinstance(item, Early):
                response, bodiless = item.response, item.bodiless
            else:
                response = self._door.refuse(item.refusal, item.origin)
            assert isinstance(response.body, bytes), "a refusal has no live body"
            opening = self._door.openings.opening(response.status)
            self._out += http1_response.whole(
                opening, response, response.body, bodiless=bodiless, old=False, last=True
            )
            self._close()
        elif self._door.stopping:
            self._close()
        else:
            self._hand_over(self._door.heir(self.address), bytes(self._wire.rest))

    def _hand_over(self, heir: Any, data: bytes) -> None:
        """Leave the connection to another protocol, beginning with these bytes."""
        self.flush()
        self._hold(0)
        self.phase = END
        self._wheel.remove(self)
        self._wire.rest.clear()
        self.transport.unregisterProducer()
        if self._paused:
            self.transport.resumeProducing()
        self._heir = heir
        self._detour = Http1Connection._pass_on
        heir.makeConnection(self.transport)
        heir.dataReceived(data)

    def _negotiated(self, data: bytes) -> None:
        """Learn, over TLS, whether the client has chosen HTTP/2."""
        self._detour = None
        if getattr(self.transport, "negotiatedProtocol", None) == b"h2":
            self._hand_over(self._door.http2(self.address), data)
        else:
            self.dataReceived(data)

    def _close(self) -> None:
        """End the connection behind the last answer."""
        self.flush()
        self._hold(0)
        self._detour = Http1Connection._discard
        dropped = self._wire.dropped
        self._wire.close()
        self._outlet.close(linger=dropped and not self._half, hang_up=self._door.stopping)
        self._enter(END)

    def cut(self) -> None:
        """End the connection at once, in the middle of whatever it is."""
        self._detour = Http1Connection._discard
        self._wire.close()
        self._out.clear()
        self._enter(END)
        self._outlet.abort()

    def drain(self) -> None:
        """Close as soon as what has begun is answered: the server stops."""
        detour = self._detour
        unused = detour is None or detour is Http1Connection._negotiated
        if unused and self._head is None and not self._wire.ready:
            self._close()

    def _discard(self, data: bytes) -> None:
        """Drop bytes that come after the end, and read no more where there are many."""
        self._discarded += len(data)
        if self._discarded > limits.LINGER_BYTES and not self._gone:
            self.transport.pauseProducing()

    def _pass_on(self, data: bytes) -> None:
        """Give bytes to the protocol that the connection was handed over to."""
        self._heir.dataReceived(data)

    # -- live bodies ----------------------------------------------------------------------------

    def send(self, data: bytes) -> None:
        """Send bytes of a live body."""
        if self._out or self._working:
            self._out.append(data)
        else:
            self._outlet.send(data)

    def live_ended(self, chunked: bool, delimited: bool) -> None:
        """The live body is complete; ``delimited`` says that the client can tell."""
        head, self._head, self._live = self._head, None, None
        assert head is not None, "a live body answers a request"
        if chunked:
            self._out.append(http1_response.LAST_CHUNK)
        if not delimited or not head.keep or self._door.stopping:
            self._close()
        elif not self._working:
            self._go_on()
