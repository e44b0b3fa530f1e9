"""Public interface of a store: commands, reads, queries, and notification of commits.

`IStreamStore` is implemented by `memory.store.MemoryStore` and `durable.store.DurableStore`. Both
carry out commands with the rules of `storage.commands`, so they differ only in where they keep
streams.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Final, Protocol, TypeVar

from msgspec import Struct
from twisted.internet.defer import Deferred
from twisted.logger import Logger
from zope.interface import Attribute, Interface

from durable_streams_tw.protocol.errors import Problem, Refusal
from durable_streams_tw.protocol.streams.commands import Append, Create, Delete
from durable_streams_tw.protocol.streams.offsets import RequestedOffset
from durable_streams_tw.protocol.streams.outcomes import Appended, Created, Deleted
from durable_streams_tw.protocol.streams.state import StreamState
from durable_streams_tw.protocol.subscriptions.commands import SubscriptionCommand
from durable_streams_tw.protocol.subscriptions.outcomes import SubscriptionOutcome
from durable_streams_tw.protocol.subscriptions.state import Subscription

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

Command = Create | Append | Delete | SubscriptionCommand
Outcome = Created | Appended | Deleted | SubscriptionOutcome | Refusal

#: Commands with a body. A union that is made for each check takes longer than the check.
WITH_BODY: Final = (Append, Create)
#: Commands that name one stream.
OF_STREAMS: Final = (Append, Create, Delete)

#: Refusal of requests while the process that owns the store is away.
STORE_AWAY: Final = Refusal(
    Problem.STORAGE_UNAVAILABLE,
    "the process that owns the store is restarting",
    ((b"Retry-After", b"1"),),
)

#: Refusal of requests while the store closes.
STOPPING: Final = Refusal(Problem.STOPPING, "the server is stopping, or has not started")

_log = Logger()


def body_size(command: Command) -> int:
    """Return the size of a command's body in bytes, 0 if it has none."""
    body = command.body if isinstance(command, WITH_BODY) else None
    return 0 if body is None else len(body.data)


class Chunk(Struct, frozen=True, array_like=True, tag=True):
    """Result of a read, and the stream's state at that moment.

    ``data`` are stored bytes from position ``start``. ``more`` is the number of bytes of the
    response that follow ``data``; fetch them with `IStreamStore.read_range`. In JSON mode ``data``
    and the bytes that follow it together are whole messages.
    """

    state: StreamState
    start: int
    data: bytes
    more: int = 0

    @property
    def end(self) -> int:
        """Return the position after the last byte of the response."""
        return self.start + len(self.data) + self.more

    @property
    def at_tail(self) -> bool:
        """Return whether the response ends at the tail that the read saw."""
        return self.end == self.state.tail


class Change(Struct, frozen=True, array_like=True, gc=False):
    """Effect of one commit on one stream; creating a stream is a change too.

    ``state`` is the stream after the commit, ``data`` the bytes appended from position ``start``.
    ``gone`` is true if the stream was deleted or has expired.
    """

    state: StreamState
    start: int
    data: bytes
    gone: bool = False


Listener = Callable[[Sequence[Change]], None]


class RecordTable(Protocol[T_co]):
    """Table of typed records, as the API needs it; `engine.tables` defines them."""

    prefix: bytes
    watched: bool

    def unpack(self, key: bytes, value: Any) -> T_co:
        """Decode a stored value with its checksum. Raises `CorruptRecord`."""

    def decode(self, key: bytes, payload: Any) -> T_co:
        """Decode a stored value without a checksum. Raises `CorruptRecord`."""


class RecordChange(Struct, frozen=True):
    """Effect of one commit on one record of a watched table; ``value`` is None if removed."""

    table: RecordTable[Any]
    key: bytes
    value: Any


RecordListener = Callable[[Sequence[RecordChange]], None]


class StoreSnapshot(Protocol):
    """Consistent view of a store as one commit left it, for `IStreamStore.query`.

    All methods raise `CorruptRecord` if a record is damaged.
    """

    def get(self, table: RecordTable[T], key: bytes) -> T | None:
        """Return the record of a key."""

    def range(
        self, table: RecordTable[T], first: bytes, stop: bytes | None
    ) -> Iterator[tuple[bytes, T]]:
        """Yield the records with ``first <= key < stop`` in order; ``stop=None`` has no bound."""

    def active_stream(self, path: str) -> StreamState | None:
        """Return the stream at a path, None if clients cannot use it."""

    def stream_names(self, prefix: str, after: str = "") -> Iterator[str]:
        """Yield at least the stream names that start with a prefix and sort after ``after``.

        The order is that of `codec.listing_key`, in the PostgreSQL store that of their bytes. Names
        without the prefix and names of deleted or expired streams may be among them. ``after`` need
        not exist.
        """


class Query(Protocol[T_co]):
    """Question to a store, for `IStreamStore.query`.

    Questions are structs, so that a store in another process can be asked them.
    """

    def answer(self, snapshot: StoreSnapshot) -> T_co:
        """Return the answer, without references to the snapshot. May run on a reader thread."""


class StoreStats(Struct, frozen=True, array_like=True, tag=True):
    """Fill level of a durable store at one moment. Sizes are bytes.

    ``queued`` commands with ``queued_bytes`` of bodies wait for the committer. ``wal_bytes`` are in
    the write-ahead log and not yet in LMDB. ``lmdb_used`` is the size of LMDB's pages in use,
    ``lmdb_map_size`` their maximum, ``file_size`` the size of LMDB's file, and ``disk_free`` the
    free space of the file system. ``readers`` snapshots are open; the oldest is ``reader_lag``
    commits old, and pages freed since then cannot be reused.
    """

    queued: int
    queued_bytes: int
    wal_bytes: int
    lmdb_used: int
    lmdb_map_size: int
    file_size: int
    disk_free: int
    readers: int
    reader_lag: int

    @property
    def lmdb_free(self) -> int:
        """Return the bytes that LMDB can still use up to its maximum."""
        return max(0, self.lmdb_map_size - self.lmdb_used)


class NodeStats(Struct, frozen=True, array_like=True, tag=True):
    """Counters of a node that shares a database, and the state of the database.

    ``queued`` commands with ``queued_bytes`` of bodies wait for the committer. ``deferred``
    commands waited for rows of other nodes; ``restarts`` batches began again with more rows locked,
    ``repeats`` because another transaction was in the way. The node connected ``reconnects`` times
    after its first connections. ``hints`` of other nodes arrived; ``late`` changes were found
    without one. The table of streams has ``dead_rows``; the oldest snapshot of any client of the
    database is ``snapshot_age`` seconds old. ``nodes`` use the database, this one included. These
    three are None while the database is unavailable.
    """

    queued: int
    queued_bytes: int
    deferred: int
    restarts: int
    repeats: int
    reconnects: int
    hints: int
    late: int
    dead_rows: int | None
    snapshot_age: float | None
    nodes: int | None


Stats = StoreStats | NodeStats


class MeasuredBatch(Struct, frozen=True, gc=False):
    """Batch that a store has carried out, with its durations.

    ``queue_seconds`` is the time that its oldest command waited, ``batch_seconds`` the time that
    the whole batch took, ``commit_seconds`` that of its commit (0 if there was none).
    """

    commands: Sequence[Command]
    outcomes: Sequence[Outcome]
    changes: Sequence[Change]
    queue_seconds: float
    batch_seconds: float
    commit_seconds: float
    failed: bool


class StoreObserver(Protocol):
    """Receiver of a store's measurements. The store calls it on the reactor's thread."""

    def record_command(self, command: Command, outcome: Outcome, changes: Sequence[Change]) -> None:
        """Record one command that was carried out alone."""

    def record_batch(self, batch: MeasuredBatch) -> None:
        """Record a batch."""

    def record_refusal(self, command: Command, refusal: Refusal) -> None:
        """Record a command that was refused."""

    def time_read(
        self, submit: Callable[[Callable[[], Any]], Deferred[Any]], function: Callable[[], T]
    ) -> Deferred[T]:
        """Submit a function to the reader threads and record how long it waited for one."""


class Duties(Protocol):
    """Division of the next actions of subscriptions among the nodes that share a store.

    One node holds the duty of each subscription that has a next action. A commit that changes the
    subscription makes its node the holder. If the holder neither acts nor renews the duty for
    `limits.DUTY_HELD` seconds after it was due, another node takes it.
    """

    def take(self) -> Deferred[list[Subscription] | Refusal]:
        """Hold the duties whose holder is late, and return their subscriptions."""

    def hold(self, ids: Sequence[str]) -> Deferred[list[Subscription] | Refusal]:
        """Renew the duties of subscriptions, and return those that this node still holds."""

    def release(self) -> Deferred[None]:
        """Let other nodes take all duties of this node. Called when the node stops."""


class KeyringStorage(Protocol):
    """Place of a keyring; ``place`` names it in messages."""

    place: str

    def update(self, change: Callable[[bytes | None], bytes | None]) -> None:
        """Call ``change`` with the stored bytes, None at first, and store the bytes it returns.

        With None nothing is stored. Nodes of a store wait for each other here.
        Blocks; called when the server starts. Raises `StoreUnusable`.
        """

    def read(self) -> Deferred[bytes | Refusal | None]:
        """Return the stored bytes. Fails with `StoreUnusable` if they cannot be read."""


class IStreamStore(Interface):
    """Collection of streams. All methods are called on the reactor's thread.

    The order is: durable, then visible, then announced. An outcome is reported, and listeners are
    called, only after the commit can no longer be lost and every later read sees it.
    """

    duties: Duties | None = Attribute("Duties of this node; None if one process owns the store.")
    keyring: KeyringStorage | None = Attribute("Keyring of all nodes, None if the store has none.")

    def open() -> None:
        """Open the store. May block. Raises `StoreUnusable`."""

    def close() -> Deferred[None]:
        """Finish all accepted commands, then release all resources."""

    def execute(command: Command, callback: Callable[[Outcome], object]) -> None:
        """Carry out a command and call ``callback`` with its outcome, synchronously or later.

        ``callback`` must not raise.
        """

    def submit(command: Command) -> Deferred[Outcome]:
        """Carry out a command and return its outcome.

        The Deferred fails only because of a bug; an expected failure is a `Refusal`. Cancelling
        it does not undo the command.
        """

    def get_state(path: str) -> Deferred[StreamState | Refusal]:
        """Return the state of the stream at a path. Does not count as an access (§5.1)."""

    def read(
        path: str,
        offset: RequestedOffset,
        limit: int,
        stream_id: int | None = None,
        piece: int | None = None,
    ) -> Deferred[Chunk | Refusal]:
        """Return about ``limit`` bytes of the stream at a path from an offset.

        In JSON mode the message that crosses the limit is included whole. Counts as an access,
        which restarts a TTL. With ``stream_id`` another stream at the path is refused. With
        ``piece`` only the first ``piece`` bytes are read, and `Chunk.more` counts the others.
        """

    def read_range(path: str, stream_id: int, start: int, stop: int) -> Deferred[bytes | Refusal]:
        """Return exactly the stored bytes ``[start, stop)`` of the stream at a path.

        ``stop`` is at most the tail. The range may begin and end inside a message. Refused if the
        path no longer has the stream ``stream_id``.
        """

    def pin(stream_id: int) -> None:
        """Keep a stream from expiring by its TTL while it has live readers. Calls nest."""

    def unpin(stream_id: int) -> None:
        """Undo one `pin`; the TTL restarts."""

    def add_listener(listener: Listener) -> None:
        """Call ``listener`` on the reactor's thread with the changes of each commit."""

    def add_record_listener(listener: RecordListener) -> None:
        """Call ``listener`` with the changed records of watched tables, once per commit.

        Called before outcomes are reported. A change may be reported twice.
        """

    def query(question: Query[T]) -> Deferred[T | Refusal]:
        """Return the answer to a question on a snapshot of the current state."""

    def set_observer(observer: StoreObserver) -> None:
        """Report measurements to ``observer`` from now on."""

    def stats() -> Deferred[Stats | None]:
        """Return the fill level, or the counters of a node.

        None if the store has no disk, or cannot read it.
        """

    def check_writable() -> Deferred[str | None]:
        """Return a sentence that says why the store cannot write, None if it can.

        Fires only after every thread that writes has responded, so never if one of them hangs.
        """


class IRemoteStore(IStreamStore):
    """Store that another process keeps; changes of pinned streams only are reported."""

    shared: bytes = Attribute("Bytes that the other process shares, empty if they are unknown.")
    on_reconnect: Callable[[], object] = Attribute(
        "Function that is called after a connection, when changes may have been missed."
    )


class ObservedStore:
    """Part that all stores share: listeners, observer, and `submit` by way of `execute`."""

    duties: Duties | None = None
    keyring: KeyringStorage | None = None

    def __init__(self) -> None:
        self._listeners: list[Listener] = []
        self._record_listeners: list[RecordListener] = []
        self._observer: StoreObserver | None = None

    def execute(self, command: Command, callback: Callable[[Outcome], object]) -> None:
        """Carry out a command and call ``callback`` with its outcome."""
        raise NotImplementedError

    def submit(self, command: Command) -> Deferred[Outcome]:
        """Carry out a command and return its outcome."""
        done: Deferred[Outcome] = Deferred()
        self.execute(command, done.callback)
        return done

    def add_listener(self, listener: Listener) -> None:
        """Call ``listener`` with the changes of each commit."""
        self._listeners.append(listener)

    def add_record_listener(self, listener: RecordListener) -> None:
        """Call ``listener`` with the changed records of watched tables."""
        self._record_listeners.append(listener)

    def set_observer(self, observer: StoreObserver) -> None:
        """Report measurements to ``observer`` from now on."""
        self._observer = observer


def notify_listeners(
    listeners: Iterable[Callable[[Sequence[T]], None]], changes: Sequence[T]
) -> None:
    """Call each listener with the changes, unless there are none; log what a listener raises."""
    if not changes:
        return
    for listener in listeners:
        try:
            listener(changes)
        except Exception:  # noqa: BLE001 - a listener's bug must not keep the others from the changes
            _log.failure("A listener of the store failed")
