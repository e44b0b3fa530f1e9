"""Server of a store for the remote stores of other processes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final

from msgspec import Raw
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IAddress, IReactorTime
from twisted.internet.protocol import Factory, connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure

from durable_streams_tw.concurrency import continue_with
from durable_streams_tw.protocol.errors import Problem, Refusal
from durable_streams_tw.protocol.streams.outcomes import Created
from durable_streams_tw.storage.api import Change, Chunk, IStreamStore, Outcome
from durable_streams_tw.storage.limits import FRAME_SIZE, MAX_BACKLOG, MAX_SENT_CHANGE
from durable_streams_tw.storage.remote import messages
from durable_streams_tw.storage.remote.frames import FrameConnection, MalformedFrame

_log = Logger()

_INTERNAL: Final = Refusal(Problem.INTERNAL, "an internal error, see the log of the server")


class StoreServer(Factory):
    """Server of a store for `RemoteStore` objects: a factory to listen with on a Unix socket.

    The socket belongs in a directory that only this user can enter: a connection is trusted with
    everything that the store can do. Create the server before the store is opened. ``shared``
    returns what every connection is told first, as `RemoteStore.shared`. ``directory`` is the data
    directory of a durable store. A connection that leaves ``backlog`` bytes unread is closed.
    """

    noisy = False

    def __init__(
        self,
        store: IStreamStore,
        clock: IReactorTime,
        shared: Callable[[], bytes] = bytes,
        *,
        directory: str | None = None,
        backlog: int = MAX_BACKLOG,
    ) -> None:
        self.store = store
        self.clock = clock
        self.shared = shared
        self.directory = directory
        self.backlog = backlog
        self.connections: set[StoreConnection] = set()
        store.add_listener(self._committed)

    def buildProtocol(self, address: IAddress | None) -> StoreConnection:
        """Return the protocol of a new connection."""
        return StoreConnection(self)

    def stop(self) -> None:
        """Close all connections. Stop listening first."""
        for connection in list(self.connections):
            connection.transport.abortConnection()

    def share(self) -> None:
        """Send all connections what ``shared`` returns now."""
        for connection in self.connections:
            connection.welcome()

    def _committed(self, changes: Sequence[Change]) -> None:
        for connection in self.connections:
            pinned = connection.pinned
            if pinned:
                for change in changes:
                    if change.state.id in pinned:
                        connection.send_change(change)


class StoreConnection(FrameConnection):
    """Connection of one remote store. ``pinned`` counts its pins by stream id."""

    peer = "a front process"

    def __init__(self, server: StoreServer) -> None:
        super().__init__(server.clock, messages.decode_requests, server.backlog)
        self._server = server
        self._store = server.store
        self._welcome = False
        self.pinned: dict[int, int] = {}
        self._handlers: dict[type, Callable[[Any], None]] = {
            messages.Execute: self._execute,
            messages.Read: self._read,
            messages.ReadRange: self._read_range,
            messages.GetState: self._get_state,
            messages.Ask: self._ask,
            messages.GetStats: self._get_stats,
            messages.CheckWritable: self._check_writable,
            messages.Pin: self._pin,
            messages.Unpin: self._unpin,
        }

    # -- connection -----------------------------------------------------------------------------

    def messages_received(self, received: list[Any]) -> None:
        """Carry out the requests of one frame."""
        if not self._welcome:
            first, *received = received or [None]
            self._greet(first)
            if not self._welcome:
                return
        handlers = self._handlers
        for message in received:
            handler = handlers.get(type(message))
            if handler is None:
                raise MalformedFrame(f"{type(message).__name__} is out of place")
            handler(message)

    def _greet(self, message: Any) -> None:
        if not isinstance(message, messages.Hello):
            raise MalformedFrame("the first message is not Hello")
        if message.version != messages.VERSION:
            reason = (
                f"the process that owns the store runs version {messages.VERSION}, "
                f"this one {message.version}: restart the whole server"
            )
            self.send(messages.Rejected(reason))
            self._flush()
            self.transport.loseConnection()
            return
        self._welcome = True
        self._server.connections.add(self)
        self.welcome()

    def welcome(self) -> None:
        """Send what the server shares."""
        self.send(messages.Welcome(self._server.shared(), self._server.directory))

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Drop the pins of the connection. Commands that were received are still carried out."""
        super().connectionLost(reason)
        self._server.connections.discard(self)
        for stream_id, count in self.pinned.items():
            for _ in range(count):
                self._store.unpin(stream_id)
        self.pinned.clear()

    # -- changes --------------------------------------------------------------------------------

    def send_change(self, change: Change) -> None:
        """Send a change of a pinned stream."""
        size = len(change.data)
        if size > MAX_SENT_CHANGE:
            change, size = Change(change.state, change.start, b"", change.gone), 0
        self.send(messages.Changed(change), size)

    def _pin(self, request: messages.Pin) -> None:
        stream_id = request.stream_id
        self.pinned[stream_id] = self.pinned.get(stream_id, 0) + 1
        self._store.pin(stream_id)

    def _unpin(self, request: messages.Unpin) -> None:
        stream_id = request.stream_id
        count = self.pinned.get(stream_id)
        if count is None:
            raise MalformedFrame(f"stream {stream_id} is not pinned")
        if count > 1:
            self.pinned[stream_id] = count - 1
        else:
            del self.pinned[stream_id]
        self._store.unpin(stream_id)

    # -- requests -------------------------------------------------------------------------------

    def _execute(self, request: messages.Execute) -> None:
        self._store.execute(request.command, partial(self._reply, request.number))

    def _read(self, request: messages.Read) -> None:
        read = self._store.read(
            request.path, request.offset, request.limit, request.stream_id, request.piece
        )
        self._reply_later(read, messages.Reply, request.number)

    def _read_range(self, request: messages.ReadRange) -> None:
        read = self._store.read_range(request.path, request.stream_id, request.start, request.stop)
        self._reply_later(read, messages.BytesReply, request.number)

    def _get_state(self, request: messages.GetState) -> None:
        self._reply_later(self._store.get_state(request.path), messages.StateReply, request.number)

    def _ask(self, request: messages.Ask) -> None:
        answer: Deferred[Any] = self._store.query(request.question)
        self._reply_later(answer, messages.Answer, request.number)

    def _get_stats(self, request: messages.GetStats) -> None:
        self._reply_later(self._store.stats(), messages.Reply, request.number)

    def _check_writable(self, request: messages.CheckWritable) -> None:
        self._reply_later(self._store.check_writable(), messages.ObstacleReply, request.number)

    # -- replies --------------------------------------------------------------------------------

    def _reply(self, number: int, outcome: Outcome) -> None:
        if type(outcome) is Created:
            # The remote store has the body.
            outcome = Created(outcome.state, outcome.fresh)
        self.send(messages.Reply(number, outcome))

    def _reply_later(self, result: Deferred[Any], kind: type[Any], number: int) -> None:
        later = continue_with(result, self._replied, (kind, number))
        if later is not None:
            later.addErrback(self._failed, number)

    def _replied(self, value: Any, reply_to: tuple[type[Any], int]) -> None:
        kind, number = reply_to
        size = 0
        if type(value) is Chunk:
            size = len(value.data)
        elif isinstance(value, Refusal):
            kind = messages.Reply
        elif kind is messages.BytesReply:
            size = len(value)
        elif kind is messages.Answer:
            value = Raw(messages.encode(value))
            size = len(value)
        if size > FRAME_SIZE:
            self.send_large(messages.encode([kind(number, value)]))
        else:
            self.send(kind(number, value), size)

    def _failed(self, failure: Failure, number: int) -> None:
        _log.failure("A request of a front process failed", failure)
        self._reply(number, _INTERNAL)
