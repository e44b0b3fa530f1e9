"""HTTP/2 connections that wait for a client that does not read.

twisted.web's turn round and round, as fast as the reactor can, while a stream has data that
its window does not let through: one client that stops reading takes a whole core, and never
becomes idle. Here such a stream counts as blocked until its window opens.

Needs the packages ``h2`` and ``priority``.
"""

from __future__ import annotations

from typing import Any

from twisted.web._http2 import _END_STREAM_SENTINEL, H2Connection


class Http2Connection(H2Connection):
    """twisted.web's HTTP/2, but for the busy loop."""

    def dataReceived(self, data: bytes) -> None:
        """Bytes have come: windows may have opened."""
        H2Connection.dataReceived(self, data)
        ready = [stream for stream in self._waiting() if self._room(stream) > 0]
        for stream in ready:
            self.priority.unblock(stream)
        asleep: Any = self._sendingDeferred
        if ready and asleep is not None:
            self._sendingDeferred = None
            asleep.callback(None)

    def goAway(self) -> None:
        """Say that no more requests are taken."""
        self.conn.close_connection()
        H2Connection._tryToWriteControlData(self)

    def _sendPrioritisedData(self, *args: object) -> None:
        H2Connection._sendPrioritisedData(self, *args)
        for stream in self._waiting():
            if self._room(stream) <= 0:
                self.priority.block(stream)

    def _waiting(self) -> list[int]:
        """The streams that have data to send, behind which they may end."""
        return [
            stream
            for stream, queue in self._outboundStreamQueues.items()
            if queue and queue[0] is not _END_STREAM_SENTINEL
        ]

    def _room(self, stream: int) -> int:
        room: int = self.conn.local_flow_control_window(stream)
        return room
