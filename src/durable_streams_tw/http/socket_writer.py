"""Writing of responses: bytes go to the socket at once where it accepts them.

``transport.write`` costs a turn of the reactor and two calls of epoll for each response. A
`SocketWriter` calls ``send`` first and leaves to the transport only what the socket refuses.

Private attributes of Twisted's TCP transports are used here alone:
``tests/http/test_twisted_private.py`` checks that they exist.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from errno import EAGAIN, ENOBUFS
from typing import Any, Final

from twisted.internet import tcp
from twisted.internet.interfaces import ISSLTransport

from durable_streams_tw.http.epoll import PolledServer
from durable_streams_tw.http.request_target import format_address

# Classes whose buffers of unsent bytes are known.
_SOCKETS: Final = (tcp.Server, PolledServer)

# Errors of a socket whose buffer is full.
_FULL: Final = (EAGAIN, ENOBUFS)


class SocketWriter:
    """Writer of one transport. ``secure`` is true for TLS."""

    __slots__ = ("_eager", "_send", "_socket", "_transport", "secure")

    def __init__(self, transport: Any) -> None:
        self._transport: Any = transport
        self.secure: Final = bool(ISSLTransport.providedBy(transport))
        # Exact classes only: wrappers forward these methods, and sending would bypass TLS.
        plain = type(transport) in _SOCKETS and not transport.TLS
        self._eager: Any = transport if plain else None
        # transport.writeSomeData would add a memoryview and two calls.
        self._send: Any = transport.socket.send if plain else None
        below = transport if plain else getattr(transport, "transport", None)
        self._socket: Any = below if type(below) in _SOCKETS else None
        if self._socket is not None:
            self._socket.setTcpNoDelay(True)

    def local_address(self) -> bytes:
        """Return the host and port that the client connected to."""
        return format_address(self._transport.getHost())

    def send(self, data: bytes) -> None:
        """Send bytes: at once if none are buffered before them."""
        eager = self._eager
        if eager is None or eager.TLS or eager.dataBuffer or eager._tempDataBuffer:
            self._transport.write(data)
            return
        sent = self._try_send(self._send, data)
        if sent is not None and sent < len(data):
            self._transport.write(data[sent:])

    def send_parts(self, parts: Sequence[bytes]) -> None:
        """Send several byte strings without joining them, for large bodies."""
        eager = self._eager
        if eager is None or eager.TLS or eager.dataBuffer or eager._tempDataBuffer:
            self._transport.write(b"".join(parts))
            return
        sent = self._try_send(eager.socket.sendmsg, parts)
        if sent is None:
            return
        for part in parts:
            if sent < len(part):
                self._transport.write(part[sent:])
            sent = max(sent - len(part), 0)

    def _try_send(self, send: Callable[[Any], int], what: object) -> int | None:
        """Return how many bytes the socket accepts now, None if the connection is lost."""
        try:
            return send(what)
        except OSError as error:
            if error.errno in _FULL:
                return 0
            # The reactor calls connectionLost.
            self.abort()
            return None

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

    def abort(self) -> None:
        """Reset the connection. Unsent bytes are lost."""
        self._eager = None
        self._transport.abortConnection()


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
