"""Store whose owner is another process."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import partial
from random import random as default_random
from typing import TYPE_CHECKING, Any, Final, TypeVar

from msgspec import Struct
from twisted.internet.defer import Deferred, succeed
from twisted.internet.endpoints import UNIXClientEndpoint
from twisted.internet.interfaces import IDelayedCall, IStreamClientEndpoint
from twisted.internet.protocol import Factory, connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from durable_streams_tw.clocks import cancel
from durable_streams_tw.concurrency import WorkerPool
from durable_streams_tw.protocol.errors import Problem, Refusal
from durable_streams_tw.protocol.streams.offsets import RequestedOffset
from durable_streams_tw.protocol.streams.state import StreamState
from durable_streams_tw.storage import limits
from durable_streams_tw.storage.api import (
    OF_STREAMS,
    STOPPING,
    STORE_AWAY,
    Change,
    Chunk,
    Command,
    IRemoteStore,
    ObservedStore,
    Outcome,
    Query,
    RecordListener,
    Stats,
    body_size,
    notify_listeners,
)
from durable_streams_tw.storage.remote import messages
from durable_streams_tw.storage.remote.frames import FrameConnection, MalformedFrame

if TYPE_CHECKING:
    from durable_streams_tw.storage.remote.checkpoint_reader import CheckpointReader

T = TypeVar("T")

_log = Logger()

_RETRY_SOON: Final = ((b"Retry-After", b"1"),)
_UNKNOWN: Final = Refusal(
    Problem.OUTCOME_UNKNOWN,
    "the process that owns the store ended before it reported the outcome",
    _RETRY_SOON,
)
_OVERLOADED: Final = Refusal(
    Problem.OVERLOADED, "too many writes are waiting for the store", _RETRY_SOON
)
_AWAY_OBSTACLE: Final = "the process that owns the store is away"

_REPLIES: Final = frozenset(
    (
        messages.Reply,
        messages.StateReply,
        messages.BytesReply,
        messages.ObstacleReply,
        messages.Answer,
    )
)


class _SharedRead:
    """Callback of equal reads that one request carries out."""

    __slots__ = ("waiting",)

    def __init__(self) -> None:
        self.waiting: list[Deferred[Any]] = []

    def __call__(self, result: Any) -> None:
        """Return the result of all reads."""
        for deferred in self.waiting:
            deferred.callback(result)


class _Waiting(Struct):
    """Request without a reply yet.

    ``size`` is that of its body in bytes, ``lost`` the result if the connection is lost. A request
    to ``repeat`` is sent again instead.
    """

    callback: Callable[[Any], object]
    size: int = 0
    lost: Any = STORE_AWAY
    repeat: messages.Read | messages.ReadRange | None = None


@implementer(IRemoteStore)
class RemoteStore(ObservedStore):
    """Store that a `StoreServer` of another process keeps.

    ``endpoint`` is the path of the server's Unix socket. The store connects when it is opened, and
    again whenever the connection is lost. While there is none, new requests are refused with
    STORAGE_UNAVAILABLE, and commands without a reply have an unknown outcome. Reads that continue
    an earlier one, of live readers and transfers, wait up to OUTAGE_GRACE seconds for the server.

    Listeners are told the changes of pinned streams only. Changes during an outage are lost, so
    ``on_reconnect`` is called after it, once all streams are pinned again. The observer is told
    the refusals of this process only; the server's store measures the rest.
    """

    def __init__(
        self,
        reactor: Any,
        endpoint: str | IStreamClientEndpoint,
        *,
        random: Callable[[], float] = default_random,
        in_thread: Callable[..., Deferred[Any]] | None = None,
    ) -> None:
        super().__init__()
        self._reactor = reactor
        if isinstance(endpoint, str):
            endpoint = UNIXClientEndpoint(reactor, endpoint)
        self._endpoint: Any = endpoint
        self._random = random
        self._factory = Factory.forProtocol(lambda: _ServerConnection(self, reactor))
        #: Secret that the server shares with its clients; empty before the first connection.
        self.shared = b""
        #: Called after each connection, the first one included.
        self.on_reconnect: Callable[[], object] = lambda: None
        self._threads = WorkerPool(reactor, limits.READ_THREADS, "durable-streams-read")
        self._in_thread = in_thread or self._threads
        # Reads the pieces of long responses that the last checkpoint of a durable store has.
        self._checkpoint: CheckpointReader | None = None
        self._opened = False
        self._closing: list[Deferred[None]] = []
        self._connection: _ServerConnection | None = None
        self._connecting: Deferred[Any] | None = None
        self._retry: IDelayedCall | None = None
        self._failures = 0
        self._logged = ""
        self._connected: list[Deferred[None]] = []
        # Whether continued reads wait for the server, and the timer that ends this.
        self._holds = True
        self._grace: IDelayedCall | None = None
        self._number = 0
        self._waiting: dict[int, _Waiting] = {}
        self._queued_bytes = 0
        # Reads of the next frame, and the number of frames before it.
        self._reads: dict[tuple[Any, ...], _SharedRead] = {}
        self._frames = 0
        # Large commands without a reply, by path: other commands must not overtake them.
        self._large: Counter[str] = Counter()
        self._pins: Counter[int] = Counter()

    # -- open and close -------------------------------------------------------------------------

    def open(self) -> None:
        """Begin to connect. Does not block."""
        self._opened = True
        self._begin_outage()
        self._connect()

    def when_connected(self) -> Deferred[None]:
        """Return a Deferred that fires once the store is connected to its server."""
        if self._connection is not None:
            return succeed(None)
        self._connected.append(Deferred())
        return self._connected[-1]

    def close(self) -> Deferred[None]:
        """Wait for the replies to all requests, then disconnect."""
        self._opened = False
        closed: Deferred[None] = Deferred()
        self._closing.append(closed)
        if self._connection is None:
            self._lose_requests(repeated=False)
        self._close_if_idle()
        return closed

    def _close_if_idle(self) -> None:
        if self._waiting:
            return
        cancel(self._retry)
        cancel(self._grace)
        if self._connecting is not None:
            self._connecting.cancel()
        if self._connection is not None:
            # `disconnected` follows.
            self._connection.transport.loseConnection()
            return
        self._threads.stop()
        if self._checkpoint is not None:
            self._checkpoint.close()
        closing, self._closing = self._closing, []
        for closed in closing:
            closed.callback(None)

    # -- connection -----------------------------------------------------------------------------

    def _connect(self) -> None:
        self._connecting = self._endpoint.connect(self._factory)
        self._connecting.addCallbacks(self._attempt_done, self._attempt_failed)

    def _attempt_done(self, _: object) -> None:
        self._connecting = None

    def _attempt_failed(self, failure: Failure) -> None:
        self._connecting = None
        self._connect_later(f"Could not connect to the owner of the store: {failure.value}")

    def _connect_later(self, reason: str) -> None:
        if not self._opened:
            return
        if reason != self._logged:
            self._logged = reason
            _log.warn("{reason}", reason=reason)
        delay = min(limits.RECONNECT_FIRST * 2.0**self._failures, limits.RECONNECT_LAST)
        self._failures += 1
        # Without jitter, all front processes would connect at the same moment.
        self._retry = self._reactor.callLater(delay * (0.5 + self._random() / 2), self._connect)

    def connect_now(self) -> None:
        """Connect without waiting for the next attempt: the owner is known to be there again."""
        if self._retry is not None and self._retry.active():
            self._retry.reset(0)

    def connected(self, connection: _ServerConnection, welcome: messages.Welcome) -> None:
        """Use a connection that the server has welcomed: pin and read again."""
        if not self._opened:
            connection.transport.loseConnection()
            return
        self._connection = connection
        self._reads.clear()
        self.shared = welcome.shared
        if welcome.directory is not None:
            if self._checkpoint is None:
                # At module level, this import would make LMDB a requirement of memory stores.
                from durable_streams_tw.storage.remote.checkpoint_reader import CheckpointReader

                self._checkpoint = CheckpointReader(welcome.directory, self._in_thread)
            self._checkpoint.open()
        self._failures = 0
        self._logged = ""
        self._holds = True
        cancel(self._grace)
        # The server carries out requests in order: nothing that changes after a pin is missed.
        for stream_id in self._pins:
            connection.send(messages.Pin(stream_id))
        for waiting in self._waiting.values():
            connection.send(waiting.repeat)
        self.on_reconnect()
        fired, self._connected = self._connected, []
        for deferred in fired:
            deferred.callback(None)

    def disconnected(self, connection: _ServerConnection, reason: str) -> None:
        """Report that a connection is lost: fail requests, and connect again."""
        if connection is self._connection:
            self._connection = None
            self._begin_outage()
            self._lose_requests(repeated=self._opened)
        self._connect_later(reason)
        if self._closing:
            self._close_if_idle()

    def _begin_outage(self) -> None:
        self._holds = True
        if self._opened:
            self._grace = self._reactor.callLater(limits.OUTAGE_GRACE, self._end_grace)

    def _end_grace(self) -> None:
        self._holds = False
        self._lose_requests(repeated=False)

    def _lose_requests(self, repeated: bool) -> None:
        """Report that the server is away; with ``repeated``, not to reads that can be repeated."""
        waiting, self._waiting = self._waiting, {}
        if repeated:
            self._waiting = {
                number: request for number, request in waiting.items() if request.repeat is not None
            }
        self._queued_bytes = 0
        self._large.clear()
        for number, request in waiting.items():
            if number not in self._waiting:
                request.callback(request.lost)

    def take(self, received: list[Any]) -> None:
        """Take the messages of one frame: report all replies, then notify listeners."""
        changes: list[Change] = []
        for message in received:
            kind = type(message)
            if kind in _REPLIES:
                request = self._waiting.pop(message.number, None)
                if request is None:
                    raise MalformedFrame(f"there is no request {message.number}")
                self._queued_bytes -= request.size
                request.callback(message.result)
            elif kind is messages.Changed:
                changes.append(message.change)
            elif kind is messages.Welcome:
                self.shared = message.shared
            else:
                raise MalformedFrame(f"{kind.__name__} is out of place")
        notify_listeners(self._listeners, changes)
        if self._closing:
            self._close_if_idle()

    # -- commands -------------------------------------------------------------------------------

    def execute(self, command: Command, callback: Callable[[Outcome], object]) -> None:
        """Send a command and call ``callback`` with its outcome."""
        connection = self._connection
        if connection is None or not self._opened:
            self._refuse(command, callback, STORE_AWAY if self._opened else STOPPING)
            return
        size = body_size(command)
        if (
            self._queued_bytes + size > limits.MAX_QUEUE
            or len(self._waiting) >= limits.MAX_QUEUED_COMMANDS
        ):
            self._refuse(command, callback, _OVERLOADED)
            return
        self._number = number = self._number + 1
        self._queued_bytes += size
        message = messages.Execute(number, command)
        if size <= limits.FRAME_SIZE and not self._large:
            connection.send(message, size)
        else:
            callback = self._send_in_order(connection, message, size, callback)
        self._waiting[number] = _Waiting(callback, size, _UNKNOWN)

    def _send_in_order(
        self,
        connection: _ServerConnection,
        message: messages.Execute,
        size: int,
        callback: Callable[[Outcome], object],
    ) -> Callable[[Outcome], object]:
        """Send a command after the large ones of its path; return the callback for its outcome."""
        command = message.command
        path = command.path if isinstance(command, OF_STREAMS) else ""
        if size <= limits.FRAME_SIZE and path not in self._large:
            connection.send(message, size)
            return callback
        self._large[path] += 1
        connection.send_large(messages.encode([message]))
        return partial(self._large_done, path, callback)

    def _refuse(
        self, command: Command, callback: Callable[[Outcome], object], refusal: Refusal
    ) -> None:
        if self._observer is not None:
            self._observer.record_refusal(command, refusal)
        callback(refusal)

    def _large_done(
        self, path: str, callback: Callable[[Outcome], object], outcome: Outcome
    ) -> None:
        self._large[path] -= 1
        if self._large[path] <= 0:
            del self._large[path]
        callback(outcome)

    # -- reads ----------------------------------------------------------------------------------

    def get_state(self, path: str) -> Deferred[StreamState | Refusal]:
        """Return the state of the stream at a path."""
        return self._request(messages.GetState(self._next(), path))

    def read(
        self,
        path: str,
        offset: RequestedOffset,
        limit: int,
        stream_id: int | None = None,
        piece: int | None = None,
    ) -> Deferred[Chunk | Refusal]:
        """Return bytes of the stream at a path. With ``stream_id`` it continues an earlier read.

        Equal reads in one frame are one request. It starts after all of them, so each sees what was
        acknowledged before.
        """
        connection = self._connection
        if connection is None or not self._opened:
            message = messages.Read(self._next(), path, offset, limit, stream_id, piece)
            return self._request(message, repeat=None if stream_id is None else message)
        if connection.frames != self._frames:
            self._frames = connection.frames
            self._reads.clear()
        equal = (path, offset, limit, stream_id, piece)
        shared = self._reads.get(equal)
        if shared is None:
            shared = self._reads[equal] = _SharedRead()
            self._number = number = self._number + 1
            message = messages.Read(number, *equal)
            repeat = None if stream_id is None else message
            self._waiting[number] = _Waiting(shared, 0, STORE_AWAY, repeat)
            connection.send(message)
        result: Deferred[Chunk | Refusal] = Deferred()
        shared.waiting.append(result)
        return result

    def read_range(
        self, path: str, stream_id: int, start: int, stop: int
    ) -> Deferred[bytes | Refusal]:
        """Return exactly the stored bytes ``[start, stop)`` of a stream."""
        message = messages.ReadRange(self._next(), path, stream_id, start, stop)
        read = None
        if self._checkpoint is not None and self._opened:
            read = self._checkpoint.read_range(stream_id, start, stop)
        if read is None:
            return self._request(message, repeat=message)
        return read.addCallback(
            lambda data: self._request(message, repeat=message) if data is None else data
        )

    def query(self, question: Query[T]) -> Deferred[T | Refusal]:
        """Return the answer of the server to a question."""
        decode = messages.ANSWERS[type(question)].decode
        request: Any = messages.Ask(self._next(), question)  # type: ignore[arg-type]
        return self._request(request).addCallback(
            lambda result: result if isinstance(result, Refusal) else decode(result)
        )

    def stats(self) -> Deferred[Stats | None]:
        """Return the fill level of the server's store, None if it is away."""
        return self._request(messages.GetStats(self._next()), lost=None)

    def check_writable(self) -> Deferred[str | None]:
        """Return why the server's store cannot write, None if it can."""
        return self._request(messages.CheckWritable(self._next()), lost=_AWAY_OBSTACLE)

    def _next(self) -> int:
        self._number += 1
        return self._number

    def _request(
        self,
        message: Any,
        *,
        lost: Any = STORE_AWAY,
        repeat: messages.Read | messages.ReadRange | None = None,
    ) -> Deferred[Any]:
        connection = self._connection
        if not self._opened:
            return succeed(STOPPING if lost is STORE_AWAY else lost)
        if connection is None and (repeat is None or not self._holds):
            return succeed(lost)
        result: Deferred[Any] = Deferred()
        self._waiting[message.number] = _Waiting(result.callback, 0, lost, repeat)
        if connection is not None:
            connection.send(message)
        return result

    # -- live readers ---------------------------------------------------------------------------

    def pin(self, stream_id: int) -> None:
        """Keep a stream from expiring by its TTL, and have its changes reported."""
        self._pins[stream_id] += 1
        if self._connection is not None and self._pins[stream_id] == 1:
            # Cached reads may miss changes that were not reported before the pin.
            self._reads.clear()
            self._connection.send(messages.Pin(stream_id))

    def unpin(self, stream_id: int) -> None:
        """Undo one `pin`."""
        self._pins[stream_id] -= 1
        if not self._pins[stream_id]:
            del self._pins[stream_id]
            if self._connection is not None:
                self._connection.send(messages.Unpin(stream_id))

    def add_record_listener(self, listener: RecordListener) -> None:
        """Raise an error: the server of the store schedules the actions of subscriptions."""
        raise NotImplementedError("subscriptions are scheduled by the process that owns the store")


class _ServerConnection(FrameConnection):
    """Connection of a remote store to its server."""

    peer = "the process that owns the store"

    def __init__(self, store: RemoteStore, reactor: Any) -> None:
        super().__init__(reactor, messages.decode_responses, limits.MAX_MESSAGE)
        self._store = store
        self._welcome = False
        self._reason = "The process that owns the store has closed the connection"

    def connectionMade(self) -> None:
        """Say the version."""
        super().connectionMade()
        self.send(messages.Hello(messages.VERSION))

    def messages_received(self, received: list[Any]) -> None:
        """Take the messages of one frame."""
        if not self._welcome:
            first, *received = received or [None]
            if isinstance(first, messages.Rejected):
                self._reason = f"Connection refused: {first.reason}"
                return
            if not isinstance(first, messages.Welcome):
                raise MalformedFrame("the first message is not Welcome")
            self._welcome = True
            self._store.connected(self, first)
        self._store.take(received)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Report the end to the store."""
        super().connectionLost(reason)
        self._store.disconnected(self, self._reason)
