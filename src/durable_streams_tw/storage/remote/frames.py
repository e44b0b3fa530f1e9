"""Frames of messages on a connection between two processes of one machine.

A frame is four bytes of length (big-endian) and an array of messages in MessagePack. All messages
of one reactor turn share a frame, which costs far less than a frame each.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any, Final

from msgspec import MsgspecError
from twisted.internet import unix
from twisted.internet.interfaces import IPushProducer, IReactorTime
from twisted.internet.protocol import Protocol, connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from durable_streams_tw.eager_writer import EagerWriter
from durable_streams_tw.reactor_turn import turn_of
from durable_streams_tw.storage.limits import FRAME_SIZE, MAX_FRAME, MAX_MESSAGE
from durable_streams_tw.storage.remote.messages import Fragment, encode

# Estimate of the encoded size of a message without its body, in bytes.
_MESSAGE_SIZE: Final = 128

_LENGTH: Final = 4

Buffer = bytes | bytearray | memoryview


class MalformedFrame(Exception):
    """Frame that no peer of this version sends."""


@implementer(IPushProducer)
class FrameConnection(Protocol):
    """Connection that sends and receives messages.

    Messages sent with `send` arrive in order. Arrays of messages sent with `send_large` arrive in
    order too, but later messages of `send` may arrive first. The connection is closed if more than
    ``backlog`` bytes wait for the peer, or if the peer sends a malformed frame.
    """

    _log = Logger()
    _writer: EagerWriter

    transport: Any
    peer = "another process"
    """Name of the peer for the log."""

    def __init__(
        self, clock: IReactorTime, decode: Callable[[Buffer], list[Any]], backlog: int
    ) -> None:
        self._turn = turn_of(clock)
        self._decode = decode
        self._max_backlog = backlog
        self._scheduled = False
        self._open = False
        self._paused = False
        #: Number of frames that have been encoded.
        self.frames = 0
        # Messages of the next frame, and their estimated size.
        self._messages: list[Any] = []
        self._size = 0
        # Encoded frames that wait for a paused transport.
        self._frames: deque[bytes] = deque()
        self._large: deque[memoryview] = deque()
        # Bytes in both.
        self._waiting = 0
        self._received = bytearray()
        self._fragments = bytearray()

    def messages_received(self, messages: list[Any]) -> None:
        """Handle the messages of one frame. May raise `MalformedFrame`."""
        raise NotImplementedError

    # -- send -----------------------------------------------------------------------------------

    def send(self, message: Any, size: int = 0) -> None:
        """Send a message at the end of the reactor turn. ``size`` is that of its body in bytes."""
        if not self._open:
            return
        self._messages.append(message)
        self._size += size + _MESSAGE_SIZE
        if self._size >= FRAME_SIZE:
            self._end_frame()
        if not self._scheduled:
            self._schedule()

    def send_large(self, encoded: bytes) -> None:
        """Send an encoded array of messages in frames of bounded size, between others."""
        if not self._open:
            return
        self._large.append(memoryview(encoded))
        self._wait(len(encoded))
        self._schedule()

    def _schedule(self) -> None:
        if not self._scheduled and not self._paused:
            self._scheduled = True
            self._turn.at_end(self._flush)

    def _end_frame(self) -> None:
        messages, self._messages = self._messages, []
        self._size = 0
        self.frames += 1
        frame = encode(messages)
        self._frames.append(frame)
        self._wait(len(frame))

    def _wait(self, size: int) -> None:
        self._waiting += size
        if self._waiting > self._max_backlog:
            self.fail(f"it left {self._waiting} bytes unread")

    def _flush(self) -> None:
        self._scheduled = False
        if self._messages:
            self._end_frame()
        # A write may pause this producer.
        while self._frames and not self._paused:
            frame = self._frames.popleft()
            self._waiting -= len(frame)
            self._write(frame)
        if self._large and not self._paused:
            self._write_fragment()
        if self._large and not self._paused:
            self._schedule()

    def _write_fragment(self) -> None:
        rest = self._large[0]
        part, rest = rest[:FRAME_SIZE], rest[FRAME_SIZE:]
        if rest:
            self._large[0] = rest
        else:
            self._large.popleft()
        self._waiting -= len(part)
        self._write(encode([Fragment(bytes(part), not rest)]))

    def _write(self, frame: bytes) -> None:
        if self._open:
            self._writer.send(len(frame).to_bytes(_LENGTH, "big") + frame)

    # -- IPushProducer --------------------------------------------------------------------------

    def pauseProducing(self) -> None:
        """Keep frames: the transport's buffer is full."""
        self._paused = True

    def resumeProducing(self) -> None:
        """Send again: the transport's buffer is empty."""
        self._paused = False
        self._schedule()

    def stopProducing(self) -> None:
        """Do nothing: `connectionLost` follows."""

    # -- receive --------------------------------------------------------------------------------

    def dataReceived(self, data: bytes) -> None:
        """Handle the frames that are complete."""
        self._turn.run(self._bytes_received, data)

    def _bytes_received(self, data: bytes) -> None:
        try:
            if not self._received and int.from_bytes(data[:_LENGTH], "big") == len(data) - _LENGTH:
                # One whole frame, most of the time: not copied.
                self._frame_received(memoryview(data)[_LENGTH:])
                return
            self._received += data
            while self._open and (frame := self._next_frame()) is not None:
                self._frame_received(frame)
        except (MsgspecError, MalformedFrame) as error:
            self.fail(f"it sent a malformed frame: {error}")

    def _next_frame(self) -> bytes | None:
        received = self._received
        if len(received) < _LENGTH:
            return None
        size = int.from_bytes(received[:_LENGTH], "big")
        if size > MAX_FRAME:
            raise MalformedFrame(f"{size} bytes are more than a frame has")
        end = _LENGTH + size
        if len(received) < end:
            return None
        with memoryview(received) as view:
            frame = bytes(view[_LENGTH:end])
        del received[:end]
        return frame

    def _frame_received(self, frame: Buffer) -> None:
        messages = self._decode(frame)
        if messages and type(messages[0]) is Fragment:
            self._fragment_received(messages)
        else:
            self.messages_received(messages)

    def _fragment_received(self, messages: list[Any]) -> None:
        (fragment,) = messages if len(messages) == 1 else (None,)
        if fragment is None:
            raise MalformedFrame("a fragment is alone in its frame")
        self._fragments += fragment.data
        if len(self._fragments) > MAX_MESSAGE:
            raise MalformedFrame(f"more than {MAX_MESSAGE} bytes of fragments")
        if fragment.last:
            whole, self._fragments = self._fragments, bytearray()
            self.messages_received(self._decode(whole))

    # -- open and close -------------------------------------------------------------------------

    def connectionMade(self) -> None:
        """Begin to send."""
        self._open = True
        self._writer = EagerWriter(self.transport, (unix.Client, unix.Server))
        self.transport.registerProducer(self, True)

    def fail(self, reason: str) -> None:
        """Log why the connection is closed, and close it."""
        if self._open:
            self._log.error("Closed the connection to {peer}: {why}", peer=self.peer, why=reason)
            self._release()
            self.transport.abortConnection()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Drop all that waits."""
        self._release()

    def _release(self) -> None:
        self._open = False
        self._messages.clear()
        self._frames.clear()
        self._large.clear()
        self._received.clear()
        self._fragments.clear()
