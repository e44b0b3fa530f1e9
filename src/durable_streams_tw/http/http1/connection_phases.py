"""What a connection is about, and what that means for its reading and for our patience.

Nothing here knows of requests but that there are some. After whatever happens on a connection
its phase is found anew; what a phase may take is looked at by the wheel.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from enum import Enum
from typing import TYPE_CHECKING, Any, Final

from twisted.internet.protocol import Protocol

from durable_streams_tw.http import limits
from durable_streams_tw.http.body_budget import NO_ROOM
from durable_streams_tw.http.http1 import response
from durable_streams_tw.http.http1.head import RequestHead
from durable_streams_tw.http.http1.parser import RequestParser
from durable_streams_tw.http.http1.socket_writer import SocketWriter
from durable_streams_tw.http.http1.streaming import StreamingResponse
from durable_streams_tw.protocol.errors import Problem, Refusal

if TYPE_CHECKING:
    from durable_streams_tw.http.http1.factory import Http1Factory

_TOO_SLOW: Final = Refusal(Problem.REQUEST_TIMEOUT, "the request did not come in time")


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


class PhasedConnection(Protocol, ABC):
    """One connection, but for its requests and answers."""

    #: The wheel's.
    watch = 0

    transport: Any

    def __init__(self, door: Http1Factory, address: Any) -> None:
        self.address = address
        self._door = door
        self._wheel = door.wheel
        self._wire: RequestParser
        self._outlet: SocketWriter
        # Where bytes go instead of the wire. A function and not a bound method: that would be a
        # reference cycle, and the connection's bytes would wait for the collector.
        self._detour: Callable[[Any, bytes], None] | None = None
        # Of the request that is being answered: its head, and its live body.
        self._head: RequestHead | None = None
        self._live: StreamingResponse | None = None
        # The transport is full; its reading is paused; the client has ended its side.
        self._stalled = False
        self._paused = False
        self._half = False
        # The phase, since when, and how many bytes had moved then.
        self.phase = IDLE
        self._since = 0.0
        self._moved = 0
        # Bytes of bodies: what the budget counts, and how many of them are being answered.
        self.held = 0
        self._answering = 0

    @abstractmethod
    def cut(self) -> None:
        """End the connection at once, in the middle of whatever it is."""

    @abstractmethod
    def _close(self) -> None:
        """End the connection behind the last answer."""

    @abstractmethod
    def _decide(self) -> bool:
        """Decide on the request whose body is coming, by its head.

        Returns false where the body may come; otherwise all that follows is done or arranged.
        """

    @abstractmethod
    def flush(self) -> None:
        """Send what has been gathered."""

    @abstractmethod
    def _go_on(self) -> None:
        """Work on what waits, if nothing stands in the way."""

    # -- taking stock ---------------------------------------------------------------------------

    def _settle(self) -> None:
        """Find out what the connection is about now, and what that means for its reading."""
        if self._detour is not None:
            return
        wire = self._wire
        busy = self._head is not None or bool(wire.ready)
        live = self._live
        if self._half and (not busy if live is None else not live.ends):
            # A client that follows and has nothing more to say is gone.
            if live is None:
                self._close()
            else:
                self.cut()
            return
        held = wire.held
        if not self._hold(held + self._answering):
            self.refuse_body()
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
            if wire.undecided and self._decide():
                return
            phase = BODY
            self._since = self._wheel.now
            if wire.expecting:
                wire.expecting = False
                # What was answered before comes first.
                self.flush()
                self._outlet.send(response.CONTINUE)
        else:
            phase = IDLE
        if phase is not self.phase:
            self._enter(phase)

    def _enter(self, phase: Phase) -> None:
        self.phase = phase
        self._moved = self._outlet.unsent
        self._since = self._door.look_in(self, self._patience())

    def _hold(self, held: int) -> bool:
        """Account for bytes that wait for others; false where there are too many of them."""
        return self._door.bodies.account(self, held, self._wire.in_body)

    def refuse_body(self) -> None:
        """Refuse the body that is coming, to make room for others."""
        self._wire.refuse(NO_ROOM)
        self._hold(self._wire.held + self._answering)
        self._go_on()

    # -- timeouts -------------------------------------------------------------------------------

    def visit(self, now: float) -> float:
        """Do what is due; returns when to look again."""
        passed = now - self._since
        if passed >= self._patience():
            phase = self.phase
            if phase is IDLE:
                self._close()
            elif phase is HEAD or phase is BODY:
                self._time_out()
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
            return self._door.settings.body_timeout
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
