"""Writing to sockets without waiting for the reactor.

``transport.write`` costs a turn of the reactor and two calls of epoll. An `EagerWriter` calls
``send`` first and leaves to the transport only what the socket refuses.

Private attributes of Twisted's stream transports are used here and in `http.socket_writer` alone:
``tests/http/test_twisted_private.py`` checks that they exist.
"""

from __future__ import annotations

from collections.abc import Callable
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
        sent = self._try_send(self._send, data)
        if sent is not None and sent < len(data):
            self._transport.write(data[sent:])

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

    def abort(self) -> None:
        """Reset the connection. Unsent bytes are lost."""
        self._eager = None
        self._transport.abortConnection()
