"""Writing of responses to TCP connections, and their end."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from twisted.internet import tcp
from twisted.internet.interfaces import ISSLTransport

from durable_streams_tw.eager_writer import EagerWriter
from durable_streams_tw.http.epoll import PolledServer
from durable_streams_tw.http.request_target import format_address

# Classes whose buffers of unsent bytes are known.
_SOCKETS: Final = (tcp.Server, PolledServer)


class SocketWriter(EagerWriter):
    """Writer of one transport. ``secure`` is true for TLS."""

    __slots__ = ("_socket", "secure")

    def __init__(self, transport: Any) -> None:
        super().__init__(transport, _SOCKETS)
        self.secure: Final = bool(ISSLTransport.providedBy(transport))
        plain = self._eager is not None
        below = transport if plain else getattr(transport, "transport", None)
        self._socket: Any = below if type(below) in _SOCKETS else None
        if self._socket is not None:
            self._socket.setTcpNoDelay(True)

    def local_address(self) -> bytes:
        """Return the host and port that the client connected to."""
        return format_address(self._transport.getHost())

    def send_parts(self, parts: Sequence[bytes]) -> None:
        """Send several byte strings without joining them, for large bodies."""
        eager = self._eager
        if eager is None or eager.TLS or eager.dataBuffer or eager._tempDataBuffer:
            self._transport.write(b"".join(parts))
            return
        try:
            sent = eager.socket.sendmsg(parts)
        except OSError as error:
            if self._failed(error):
                return
            sent = 0
        for part in parts:
            if sent < len(part):
                self._transport.write(part[sent:])
            sent = max(sent - len(part), 0)

    @property
    def unsent(self) -> int:
        """Number of bytes that the socket has not accepted, 0 for unknown transports."""
        socket = self._socket
        if socket is None:
            return 0
        waiting: int = len(socket.dataBuffer) - socket.offset + socket._tempDataLen
        return waiting

    def close(self, linger: bool, hang_up: bool = False) -> None:
        """Close the connection after the bytes that were written.

        With ``linger`` the client's bytes are read until it closes too: closing at once would
        reset the connection and could lose the last response (RFC 9112 §9.6). With
        ``hang_up`` the client's TLS close_notify is not awaited.
        """
        transport, self._eager = self._transport, None
        # A transport with a paused producer never closes.
        transport.unregisterProducer()
        if linger and type(transport) in _SOCKETS and not transport.TLS:
            transport.resumeProducing()
            transport.loseWriteConnection()
        elif hang_up:
            close_without_wait(transport)
        else:
            transport.loseConnection()


def close_without_wait(transport: Any) -> None:
    """Close a transport after the bytes that were written, without waiting for the client.

    Twisted's TLS sends close_notify and then waits for the client's, which an idle client sends
    when it next uses the connection: a server that stops would wait for its timeout. RFC 8446
    §6.1 allows to close at once.
    """
    transport.loseConnection()
    below = getattr(transport, "transport", None)
    if below is not None and ISSLTransport.providedBy(transport):
        below.loseConnection()
