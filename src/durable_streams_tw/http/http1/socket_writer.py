"""The way from a connection to its client: bytes go out at once where they can.

Twisted's own way to write costs a trip round the reactor and two calls of epoll for every
answer. An eager write tries to send first, and leaves to the transport only what the socket
does not take.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from errno import EAGAIN, ENOBUFS
from typing import Any, Final

from twisted.internet import tcp
from twisted.internet.interfaces import ISSLTransport

from durable_streams_tw.http.http1.epoll import PolledServer

# Where these keep what they still have to send is known, of no others.
_SOCKETS: Final = (tcp.Server, PolledServer)

# What a socket says that has no room.
_FULL: Final = (EAGAIN, ENOBUFS)


class SocketWriter:
    """Sends over one transport, and ends it.

    ``secure`` says that it is TLS.
    """

    __slots__ = ("_eager", "_send", "_socket", "_transport", "secure")

    def __init__(self, transport: Any) -> None:
        self._transport: Any = transport
        self.secure: Final = bool(ISSLTransport.providedBy(transport))
        # Exactly TCP's own classes: others have these methods too, as a way around TLS for one.
        plain = type(transport) in _SOCKETS and not transport.TLS
        self._eager: Any = transport if plain else None
        # Its own way there has a memoryview and two calls before this one.
        self._send: Any = transport.socket.send if plain else None
        below = transport if plain else getattr(transport, "transport", None)
        self._socket: Any = below if type(below) in _SOCKETS else None
        if self._socket is not None:
            self._socket.setTcpNoDelay(True)

    def reached(self) -> bytes:
        """The host and port that the client has come to, as a URL has them."""
        address = self._transport.getHost()
        host = getattr(address, "host", None)
        if host is None:
            return b"localhost"
        written = f"[{host}]" if ":" in host else host
        return f"{written}:{address.port}".encode("ascii")

    def send(self, data: bytes) -> None:
        """Send bytes, at once if nothing waits before them."""
        eager = self._eager
        if eager is None or eager.TLS or eager.dataBuffer or eager._tempDataBuffer:
            self._transport.write(data)
            return
        sent = self._at_once(self._send, data)
        if sent is not None and sent < len(data):
            self._transport.write(data[sent:])

    def send_parts(self, parts: Sequence[bytes]) -> None:
        """Send what lies in several places, large, so that to put it together would cost."""
        eager = self._eager
        if eager is None or eager.TLS or eager.dataBuffer or eager._tempDataBuffer:
            self._transport.write(b"".join(parts))
            return
        sent = self._at_once(eager.socket.sendmsg, parts)
        if sent is None:
            return
        for part in parts:
            if sent < len(part):
                self._transport.write(part[sent:])
            sent = max(sent - len(part), 0)

    def _at_once(self, send: Callable[[Any], int], what: object) -> int | None:
        """How many bytes the socket takes now, None where the client has gone."""
        try:
            return send(what)
        except OSError as error:
            if error.errno in _FULL:
                return 0
            # The reactor will say so.
            self.abort()
            return None

    @property
    def unsent(self) -> int:
        """How many bytes the client has not taken, where that can be known; else 0."""
        socket = self._socket
        if socket is None:
            return 0
        waiting: int = len(socket.dataBuffer) - socket.offset + socket._tempDataLen
        return waiting

    def close(self, linger: bool, hang_up: bool = False) -> None:
        """End the connection behind what was sent.

        With ``linger`` the client's bytes are still read, until it ends the connection too:
        closing at once would reset it, and could take the last answer with it
        (RFC 9112 §9.6). With ``hang_up`` nothing waits for the client's end of TLS.
        """
        transport, self._eager = self._transport, None
        # A paused producer would keep a transport open for ever.
        transport.unregisterProducer()
        if linger and type(transport) in _SOCKETS and not transport.TLS:
            transport.resumeProducing()
            transport.loseWriteConnection()
        elif hang_up:
            hang_up_on(transport)
        else:
            transport.loseConnection()

    def abort(self) -> None:
        """End the connection at once. What was not sent is lost."""
        self._eager = None
        self._transport.abortConnection()


def hang_up_on(transport: Any) -> None:
    """End a connection after what was written, whatever the client does.

    Twisted's TLS answers a loseConnection with an alert and then waits for the client's, which an
    idle client sends when it next uses the connection: a server that stops would wait for its
    longest patience. RFC 8446 §6.1 lets it close at once.
    """
    transport.loseConnection()
    below = getattr(transport, "transport", None)
    if below is not None and ISSLTransport.providedBy(transport):
        below.loseConnection()
