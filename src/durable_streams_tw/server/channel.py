"""The fast channel: one HTTP/1.1 connection, between a `Wire` and the stream operations.

1. Requests of one connection are carried out one by one, in their order: what a client sends
   behind an append may build on it.
2. The answers of all that is answered at once go out in one send.
3. While the client does not read, nothing more is taken from it; the transport's pauses, which
   reach the channel as its producer, govern both.
4. What is not a stream's affair goes to a site of twisted.web's, with the connection, for good.
5. Whatever ends the connection from here, the client is given time to read the last answer.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import TYPE_CHECKING, Any, Final

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IHalfCloseableProtocol, IPushProducer
from twisted.internet.protocol import Protocol, connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from durable_streams_tw.protocol import limits
from durable_streams_tw.protocol.errors import Problem, Refusal
from durable_streams_tw.server import wire_answers
from durable_streams_tw.server.channel_live import LiveBody
from durable_streams_tw.server.channel_outlet import Outlet
from durable_streams_tw.server.messages import Response
from durable_streams_tw.server.wire import Fault, Foreign, Wire
from durable_streams_tw.server.wire_heads import Head

if TYPE_CHECKING:
    from durable_streams_tw.server.channel_door import FastDoor


class Phase(Enum):
    """What a connection is about, most of all for its timeouts."""

    IDLE = 0
    HEAD = 1
    BODY = 2
    ANSWER = 3
    STALL = 4
    END = 5
    UNSETTLED = 6


IDLE, HEAD, BODY = Phase.IDLE, Phase.HEAD, Phase.BODY
ANSWER, STALL, END = Phase.ANSWER, Phase.STALL, Phase.END
UNSETTLED = Phase.UNSETTLED

_log = Logger()

# Answers are gathered up to this size before they are sent.
_GATHER: Final = 64 * limits.KIB

_TOO_SLOW: Final = Refusal(Problem.REQUEST_TIMEOUT, "the request did not come in time")
_NO_ROOM: Final = Refusal(
    Problem.OVERLOADED, "too many bodies are on their way at once", ((b"Retry-After", b"1"),)
)


@implementer(IPushProducer, IHalfCloseableProtocol)
class FastChannel(Protocol):
    """One connection of a `FastDoor`."""

    #: The wheel's.
    watch = 0

    transport: Any

    def __init__(self, door: FastDoor, address: Any) -> None:
        self._door = door
        self._wheel = door.wheel
        self.address = address
        self._wire: Wire
        self._outlet: Outlet
        self._out: list[bytes] = []
        # Where bytes go instead of the wire.
        self._detour: Callable[[bytes], None] | None = None
        self._heir: Any = None
        # Of the request that is being answered: its head, and what the answer waits for.
        self._head: Head | None = None
        self._pending: Deferred[Response] | None = None
        self._live: LiveBody | None = None
        self._working = False
        # The transport is full; its reading is paused; the client has ended its side.
        self._stalled = False
        self._paused = False
        self._half = False
        self._gone = False
        # What it is about, since when, and how many bytes had moved then.
        self.phase = IDLE
        self._since = 0.0
        self._moved = 0
        self._held = 0

    # -- Protocol -------------------------------------------------------------------------------

    def connectionMade(self) -> None:
        """A client has come."""
        door = self._door
        self._outlet = outlet = Outlet(self.transport)
        self._wire = Wire(door.surroundings(outlet.secure, outlet.reached()))
        if outlet.secure:
            # What is spoken is known only once the client has spoken.
            self._detour = self._negotiated
        self.transport.registerProducer(self, True)
        door.arrived(self)
        self._enter(IDLE)

    def dataReceived(self, data: bytes) -> None:
        """Bytes have come."""
        if self._detour is not None:
            self._detour(data)
            return
        wire = self._wire
        wire.feed(data)
        if wire.ready and self._head is None and not self._stalled:
            self._work()
        # Most requests come whole, and are answered at once.
        if self.phase is not IDLE or wire.open is not None:
            self._settle()

    def readConnectionLost(self) -> None:
        """The client will send no more. It may still read, or be gone: both look the same."""
        self._half = True
        if self._heir is not None:
            # twisted.web takes this for the end. What it has sent shall arrive.
            self._detour = self._discard
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
        self._door.left(self)
        self._hold(0)
        self._detour = self._discard
        heir, self._heir = self._heir, None
        live, self._live = self._live, None
        pending, self._pending = self._pending, None
        self._wire.ready.clear()
        if heir is not None:
            heir.connectionLost(reason)
        if live is not None:
            live.stop()
        if pending is not None:
            pending.cancel()

    # -- IPushProducer, for the transport -------------------------------------------------------

    def pauseProducing(self) -> None:
        """The transport is full."""
        self._stalled = True
        if self._live is not None:
            self._live.pause()
        if self._working:
            self.phase = UNSETTLED
        else:
            self._settle()

    def resumeProducing(self) -> None:
        """The transport is empty again."""
        self._stalled = False
        if self._live is not None:
            self._live.resume()
        self._go_on()

    def stopProducing(self) -> None:
        """The transport is gone; `connectionLost` comes next."""

    # -- requests and answers -------------------------------------------------------------------

    @property
    def _free(self) -> bool:
        """Whether nothing stands in the way of the next request."""
        return self._head is None and self._detour is None and not self._stalled

    def _go_on(self) -> None:
        """Work on what waits, if nothing stands in the way."""
        if self._wire.ready and self._free:
            self._work()
        else:
            self._flush()
        self._settle()

    def _work(self) -> None:
        """Answer what is complete, in order, until an answer takes time."""
        door = self._door
        respond = door.respond
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
                answer = respond(request)
                if not answer.called or answer.paused:
                    self._head, self._pending = head, answer
                    answer.addCallbacks(self._answered, self._failed).addErrback(self._broken)
                    break
                result: Any = answer.result
                if isinstance(result, Failure):
                    answer.addErrback(_seen)
                    result = door.failure(result, head.header.get(b"origin"))
                self._answer(head, result)
            if self._head is not None or self._stalled or self._detour is not None:
                break
        else:
            if not self._held:
                self.phase = IDLE
                self._since = self._wheel.now
        del ready[:done]
        self._flush()
        self._working = False

    def _answered(self, response: Response) -> None:
        """What an answer has waited for is there."""
        head, self._head, self._pending = self._head, None, None
        if head is not None and not self._gone:
            self._since = self._wheel.now
            self._answer(head, response)
            self._go_on()

    def _failed(self, failure: Failure) -> None:
        head = self._head
        if head is not None and not self._gone:
            self._answered(self._door.failure(failure, head.header.get(b"origin")))

    def _broken(self, failure: Failure) -> None:
        _log.failure("a connection has met a bug, and ends", failure)
        self.cut()

    def _answer(self, head: Head, response: Response) -> None:
        door = self._door
        last = not head.keep or door.stopping
        body = response.body
        opening = door.openings.opening(response.status)
        try:
            if isinstance(body, bytes):
                data = wire_answers.whole(
                    opening,
                    response,
                    body,
                    bodiless=head.method == b"HEAD",
                    old=head.old,
                    last=last,
                )
            else:
                data = wire_answers.live(opening, response, old=head.old, last=last)
        except wire_answers.TornHead:
            self._answer(head, door.failure(Failure(), head.header.get(b"origin")))
            return
        self._out.append(data)
        if not isinstance(body, bytes):
            self._flush()
            self._head = head
            self._live = LiveBody(self, None if head.old else door.frames)
            self._wire.forget()
            self._live.follow(body)
        elif last:
            self._close()
        elif len(data) >= _GATHER:
            self._flush()

    def _flush(self) -> None:
        out = self._out
        if out:
            data = out[0] if len(out) == 1 else b"".join(out)
            out.clear()
            self._outlet.send(data)

    # -- ends -----------------------------------------------------------------------------------

    def _end(self, item: Fault | Foreign) -> None:
        """Take what no request comes behind."""
        if isinstance(item, Fault):
            response = self._door.refuse(item.refusal, item.origin)
            assert isinstance(response.body, bytes), "a refusal has no live body"
            opening = self._door.openings.opening(response.status)
            self._out.append(
                wire_answers.whole(
                    opening, response, response.body, bodiless=False, old=False, last=True
                )
            )
            self._close()
        elif self._door.stopping:
            self._close()
        else:
            self._hand_over(bytes(self._wire.rest))

    def _hand_over(self, data: bytes) -> None:
        """Leave the connection to twisted.web, beginning with these bytes."""
        self._flush()
        self._hold(0)
        self.phase = END
        self._wheel.remove(self)
        self._wire.rest.clear()
        self.transport.unregisterProducer()
        if self._paused:
            self.transport.resumeProducing()
        self._heir = heir = self._door.heir(self.address)
        self._detour = heir.dataReceived
        heir.makeConnection(self.transport)
        heir.dataReceived(data)

    def _negotiated(self, data: bytes) -> None:
        """Learn, over TLS, whether the client has chosen HTTP/2."""
        self._detour = None
        if getattr(self.transport, "negotiatedProtocol", None) == b"h2":
            self._hand_over(data)
        else:
            self.dataReceived(data)

    def _close(self) -> None:
        """End the connection behind the last answer."""
        self._flush()
        self._hold(0)
        self._detour = self._discard
        self._wire.ready.clear()
        self._outlet.close(linger=self._wire.dropped and not self._half)
        self._enter(END)

    def cut(self) -> None:
        """End the connection at once, in the middle of whatever it is."""
        self._detour = self._discard
        self._enter(END)
        self._outlet.abort()

    def drain(self) -> None:
        """Close as soon as what has begun is answered: the server stops."""
        if self._detour is None and self._head is None and not self._wire.ready:
            self._close()

    def _discard(self, data: bytes) -> None:
        """Nobody wants these bytes."""

    # -- live bodies ----------------------------------------------------------------------------

    def send(self, data: bytes) -> None:
        """Send bytes of a live body."""
        if self._working:
            self._out.append(data)
        else:
            self._outlet.send(data)

    def live_ended(self, chunked: bool) -> None:
        """The live body is complete."""
        head, self._head, self._live = self._head, None, None
        assert head is not None, "a live body answers a request"
        if chunked:
            self._out.append(wire_answers.LAST_CHUNK)
        if not chunked or not head.keep or self._door.stopping:
            self._close()
        elif not self._working:
            self._go_on()

    # -- taking stock ---------------------------------------------------------------------------

    def _settle(self) -> None:
        """Find out what the connection is about now, and what that means for its reading."""
        if self._detour is not None:
            return
        wire = self._wire
        busy = self._head is not None or bool(wire.ready)
        if self._half and (self._live is not None or not busy):
            # Nobody reads a live body and has nothing more to say: this client is gone.
            if self._live is None:
                self._close()
            else:
                self.cut()
            return
        held = wire.held
        if not self._hold(held):
            wire.refuse(_NO_ROOM)
            self._go_on()
            return
        full = (
            self._stalled
            or len(wire.ready) > limits.MAX_PIPELINE
            or (busy and held > limits.READ_AHEAD)
        )
        if full is not self._paused and not self._half:
            self._paused = full
            if full:
                self.transport.pauseProducing()
            else:
                self.transport.resumeProducing()
        if self._stalled:
            phase = STALL
        elif busy:
            phase = ANSWER
        elif wire.in_head:
            phase = HEAD
        elif wire.in_body:
            phase = BODY
            if wire.expecting:
                wire.expecting = False
                self._outlet.send(wire_answers.CONTINUE)
        else:
            phase = IDLE
        if phase is not self.phase:
            self._enter(phase)

    def _enter(self, phase: Phase) -> None:
        self.phase = phase
        self._moved = self._wire.received if phase is BODY else self._outlet.unsent
        self._since = self._door.look_in(self, self._patience())

    def _hold(self, held: int) -> bool:
        """Account for bytes that wait for others; false where there are too many of them."""
        door = self._door
        grown = held - self._held
        self._held = held
        door.held += grown
        return grown <= 0 or door.held <= door.max_held

    # -- timeouts -------------------------------------------------------------------------------

    def visit(self, now: float) -> float:
        """Do what is due; returns when to look again."""
        passed = now - self._since
        if passed >= self._patience():
            phase = self.phase
            if phase is IDLE:
                self._close()
            elif phase is HEAD:
                self._time_out()
            elif phase is BODY:
                received = self._wire.received
                if received - self._moved < limits.BODY_RATE * passed:
                    self._time_out()
                else:
                    self._since, self._moved = now, received
            elif phase is ANSWER and not self._half:
                self._since = now
            else:
                unsent = self._outlet.unsent
                if phase is not ANSWER and unsent < self._moved:
                    self._since, self._moved = now, unsent
                else:
                    self.cut()
        return self._since + self._patience()

    def _patience(self) -> float:
        """How long the phase may last, or may last without anything that moves."""
        phase = self.phase
        if phase is HEAD:
            return self._door.settings.head_timeout
        if phase is BODY:
            return limits.BODY_SPAN
        if phase is STALL or (phase is END and self._outlet.unsent):
            return limits.SEND_TIMEOUT
        if phase is END:
            return limits.LINGER
        if phase is ANSWER and self._half:
            return limits.HALF_CLOSED_TIMEOUT
        return self._door.settings.idle_timeout

    def _time_out(self) -> None:
        self._wire.refuse(_TOO_SLOW)
        self._go_on()


def _seen(failure: Failure) -> None:
    """Take a failure that was taken care of."""
