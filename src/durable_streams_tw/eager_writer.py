"""Writing to sockets without waiting for the reactor.

``transport.write`` costs a turn of the reactor and two calls of epoll. An `EagerWriter` calls
``send`` first and leaves to the transport only what the socket refuses.

Private attributes of Twisted's stream transports are used here and in `http.socket_writer` alone:
``tests/http/test_twisted_private.py`` checks that they exist.
"""

from __future__ import annotations

from errno import EAGAIN, ENOBUFS
from typing import Any, Final

# Errors of a socket whose buffer is full.
_FULL: Final = (EAGAIN, ENOBUFS)


class EagerWriter:
    """Writer of one transport.

    It sends at once if the transport is of one of the classes ``sockets``, which have a buffer of
    unsent bytes, and leaves everything to other transports.
    """

    __slots__ = ("_eager", "_send", "_transport")

    def __init__(self, transport: Any, sockets: tuple[type[Any], ...]) -> None:
        self._transport: Any = transport
        # Exact classes only: wrappers forward these methods, and sending would bypass TLS.
        plain = type(transport) in sockets and not transport.TLS
        self._eager: Any = transport if plain else None
        # transport.writeSomeData would add a memoryview and two calls.
        self._send: Any = transport.socket.send if plain else None

    def send(self, data: bytes) -> None:
        """Send bytes: at once if none are buffered before them."""
        eager = self._eager
        if eager is None or eager.TLS or eager.dataBuffer or eager._tempDataBuffer:
            self._transport.write(data)
            return
        try:
            sent = self._send(data)
        except OSError as error:
            if self._failed(error):
                return
            sent = 0
        if sent < len(data):
            self._transport.write(data[sent:])

    def _failed(self, error: OSError) -> bool:
        """Reset the connection and return True, unless the error says that the socket is full."""
        if error.errno in _FULL:
            return False
        # The reactor calls connectionLost.
        self.abort()
        return True

    def abort(self) -> None:
        """Reset the connection. Unsent bytes are lost."""
        self._eager = None
        self._transport.abortConnection()
