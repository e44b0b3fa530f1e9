"""TCP proxy between libpq and PostgreSQL that cuts, freezes and delays connections.

It knows as much of the protocol as it takes to find COMMIT and its answer, in simple queries, in
pipelines, and in prepared statements. It runs in threads, so that clients may block.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from enum import Enum
from struct import unpack_from

_PIECE = 65_536


class Cut(Enum):
    """Moment of a COMMIT at which a connection is cut."""

    #: The server never receives COMMIT, and rolls back.
    BEFORE = "before"
    #: The server commits, and the client receives no byte of the answer.
    WITHIN = "within"
    #: The client receives the whole answer of COMMIT, and nothing after it.
    AFTER = "after"


class _Messages:
    """Parser of one direction of a connection. A client's first message has no type."""

    def __init__(self, client: bool) -> None:
        self._buffer = bytearray()
        self._typed = not client

    def feed(self, data: bytes) -> Iterator[tuple[bytes, bytes]]:
        """Yield type and bytes of each message that is complete."""
        self._buffer += data
        while True:
            start = 1 if self._typed else 0
            if len(self._buffer) < start + 4:
                return
            end = start + int(unpack_from("!I", self._buffer, start)[0])
            if len(self._buffer) < end:
                return
            kind, message = bytes(self._buffer[:start]), bytes(self._buffer[:end])
            del self._buffer[:end]
            self._typed = True
            yield kind, message


class _Connection:
    """Connection of one client through the proxy, with a thread for each direction."""

    def __init__(self, proxy: FaultProxy, client: socket.socket, server: socket.socket) -> None:
        self._proxy = proxy
        self._client, self._server = client, server
        self._statements: dict[bytes, bytes] = {}
        # Text of the statements since BEGIN, and the cut that applies to the COMMIT under way.
        self._transaction = b""
        self._cut: Cut | None = None
        for pump in (self._to_server, self._to_client):
            threading.Thread(target=self._run, args=(pump,), daemon=True).start()

    def close(self) -> None:
        """Cut the connection in both directions."""
        for end in (self._client, self._server):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def _run(self, pump: object) -> None:
        assert callable(pump)
        with suppress(OSError):
            pump()
        self.close()
        self._proxy.forget(self)

    def _to_server(self) -> None:
        messages = _Messages(client=True)
        while data := self._client.recv(_PIECE):
            for kind, message in messages.feed(data):
                self._proxy.hold()
                if self._is_commit(kind, message):
                    self._cut = self._proxy.cut_for(self._transaction)
                    self._transaction = b""
                    if self._cut is Cut.BEFORE:
                        return
                self._proxy.send(self._server, message)

    def _is_commit(self, kind: bytes, message: bytes) -> bool:
        """Follow the statements; return True for the message that executes COMMIT."""
        if kind == b"P":
            name, text = message[5:].split(b"\0", 2)[:2]
            self._statements[name] = text
            return False
        if kind == b"Q":
            text = message[5:-1]
        elif kind == b"B":
            text = self._statements.get(message[5:].split(b"\0", 2)[1], b"")
        else:
            return False
        if text.strip().upper().startswith(b"COMMIT"):
            return True
        self._transaction += text + b"\n"
        return False

    def _to_client(self) -> None:
        messages = _Messages(client=False)
        committed = False
        while data := self._server.recv(_PIECE):
            for kind, message in messages.feed(data):
                self._proxy.hold()
                committed = committed or (kind == b"C" and message[5:].startswith(b"COMMIT"))
                if committed and self._cut is Cut.WITHIN:
                    return
                self._client.sendall(message)
                if committed and kind == b"Z":
                    # ReadyForQuery ends the answer of a simple query, or of a pipeline.
                    if self._cut is Cut.AFTER:
                        return
                    committed = False


class FaultProxy:
    """Proxy in front of a PostgreSQL server's TCP port, while the block runs.

    Clients connect with ``cluster.url(port=proxy.port)``.
    """

    def __init__(self, server: int) -> None:
        self.server = server
        #: Number of connections that were cut at a COMMIT.
        self.cuts = 0
        #: Number of connections that clients have opened.
        self.opened = 0
        #: Bytes of the longest message that a client has sent.
        self.longest = 0
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listening.getsockname()[1]
        self._lock = threading.Lock()
        self._connections: set[_Connection] = set()
        self._running = threading.Event()
        self._running.set()
        self._refusing = False
        self._delay = self._rate = 0.0
        self._armed: tuple[Cut, bytes] | None = None

    def __enter__(self) -> FaultProxy:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listening.close()
        self._running.set()
        self.cut_all()

    # -- faults -----------------------------------------------------------------------------

    def cut_at_commit(self, moment: Cut, statement: str = "") -> None:
        """Cut the connection that commits next, once.

        With ``statement``, only a transaction that has executed a statement with this text.
        """
        with self._lock:
            self._armed = (moment, statement.encode())

    @property
    def armed(self) -> bool:
        """True until `cut_at_commit` has found its COMMIT."""
        return self._armed is not None

    def cut_all(self) -> None:
        """Cut all connections."""
        with self._lock:
            connections = list(self._connections)
        for connection in connections:
            connection.close()

    def refuse(self) -> None:
        """Cut all connections, and each new one at once, until `accept`."""
        self._refusing = True
        self.cut_all()

    def accept(self) -> None:
        """Accept connections again."""
        self._refusing = False

    def freeze(self) -> None:
        """Forward nothing until `thaw`. Connections stay open, new ones get no answer."""
        self._running.clear()

    def thaw(self) -> None:
        """Forward everything that was held back."""
        self._running.set()

    def delay(self, seconds: float) -> None:
        """Forward each message this much later."""
        self._delay = seconds

    def throttle(self, rate: float) -> None:
        """Forward this many bytes a second to the server on each connection; 0: all at once."""
        self._rate = rate

    # -- called by connections --------------------------------------------------------------

    def hold(self) -> None:
        """Wait while the proxy is frozen, and for the delay."""
        self._running.wait()
        if self._delay:
            time.sleep(self._delay)

    def send(self, server: socket.socket, message: bytes) -> None:
        """Forward a message of a client, at the rate of `throttle`."""
        self.longest = max(self.longest, len(message))
        rate = self._rate
        for start in range(0, len(message), _PIECE):
            piece = message[start : start + _PIECE]
            server.sendall(piece)
            if rate:
                time.sleep(len(piece) / rate)

    def cut_for(self, transaction: bytes) -> Cut | None:
        """Return the moment at which the COMMIT of a transaction is to be cut."""
        with self._lock:
            if self._armed is None or self._armed[1] not in transaction:
                return None
            moment, self._armed = self._armed[0], None
            self.cuts += 1
            return moment

    def forget(self, connection: _Connection) -> None:
        """Remove a connection that has ended."""
        with self._lock:
            self._connections.discard(connection)

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listening.accept()
                self.opened += 1
                try:
                    if self._refusing:
                        raise ConnectionRefusedError
                    server = socket.create_connection(("127.0.0.1", self.server))
                except OSError:
                    client.close()
                    continue
                for end in (client, server):
                    end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                connection = _Connection(self, client, server)
                with self._lock:
                    self._connections.add(connection)
