"""What a store is: commands in, outcomes out; reads; and word of every commit.

Two interfaces. `IStreamStore` is what the rest of the server sees. `Transaction` is what
`apply` needs while it carries out one command; each store supplies its own, so that the
rules, which live in `protocol.streams.transitions`, are the same for all.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from msgspec import Struct
from twisted.internet.defer import Deferred
from zope.interface import Interface

from durable_streams_tw.protocol.errors import Refusal
from durable_streams_tw.protocol.streams.bodies import Body
from durable_streams_tw.protocol.streams.commands import Append, Create, Delete
from durable_streams_tw.protocol.streams.offsets import RequestedOffset
from durable_streams_tw.protocol.streams.outcomes import Appended, Created, Deleted
from durable_streams_tw.protocol.streams.producers import ProducerState
from durable_streams_tw.protocol.streams.state import StreamState
from durable_streams_tw.protocol.subscriptions.commands import SubscriptionCommand
from durable_streams_tw.protocol.subscriptions.index import SubscriptionIndex
from durable_streams_tw.protocol.subscriptions.outcomes import SubscriptionOutcome
from durable_streams_tw.protocol.subscriptions.state import FanOut
from durable_streams_tw.storage.access_times import AccessTimes
from durable_streams_tw.storage.engine.tables import Table

if TYPE_CHECKING:
    from durable_streams_tw.storage.metrics import StoreMetrics, StoreStats

T = TypeVar("T")

Command = Create | Append | Delete | SubscriptionCommand
Outcome = Created | Appended | Deleted | SubscriptionOutcome | Refusal


class Chunk(Struct, frozen=True):
    """Bytes read, and the stream as it was at that moment.

    ``data`` are stored bytes from ``start``. ``more`` is how many bytes of the answer follow them,
    for `IStreamStore.read_range` to fetch. In JSON mode the answer, ``data`` and what follows, is
    whole messages.
    """

    state: StreamState
    start: int
    data: bytes
    more: int = 0

    @property
    def end(self) -> int:
        """Position after the last byte of the answer."""
        return self.start + len(self.data) + self.more

    @property
    def at_tail(self) -> bool:
        """Whether the answer ends where the stream ended when it was read."""
        return self.end == self.state.tail


class Change(Struct, frozen=True, gc=False):
    """What one commit did to one stream.

    ``state`` is the stream afterwards, ``data`` the bytes that were appended from
    ``start``. ``gone`` says that it was deleted or has expired. A creation is a change too.
    """

    state: StreamState
    start: int
    data: bytes
    gone: bool = False


Listener = Callable[[Sequence[Change]], None]


class RecordChange(Struct, frozen=True):
    """What one commit did to one record of a watched table: its value now, None for gone."""

    table: Table[Any]
    key: bytes
    value: Any


NoteListener = Callable[[Sequence[RecordChange]], None]


class StoreSnapshot(Protocol):
    """A store as one commit left it: what a question is asked of."""

    def get(self, table: Table[T], key: bytes) -> T | None:
        """The record of a key."""

    def range(self, table: Table[T], first: bytes, stop: bytes | None) -> Iterator[tuple[bytes, T]]:
        """The records with ``first <= key < stop``, in order; None for all behind ``first``."""

    def living(self, path: str) -> StreamState | None:
        """The stream at a path, where a client may use it."""

    def names(self, prefix: str, after: str = "") -> Iterator[str]:
        """The names of streams that begin with a text, and perhaps others; some may not be
        living.

        In the order of `records.listing_key`, from behind ``after``, which need not be there.
        """


class StoreUnusable(Exception):
    """A store cannot be opened; the message is a sentence for the operator."""


class IStreamStore(Interface):
    """A place where streams are kept. All calls are made on the reactor's thread.

    Durable first, then visible, then told: an outcome's Deferred fires, and listeners are
    called, only when the commit cannot be lost any more, and a read that begins afterwards
    sees it.
    """

    def open() -> None:
        """Make ready. May block. Raises `StoreUnusable`."""

    def close() -> Deferred[None]:
        """Finish the commands that were accepted, then release everything."""

    def carry_out(command: Command, told: Callable[[Outcome], object]) -> None:
        """Carry out a command, and call ``told`` with what came of it, on the reactor's thread, at
        once or later. It must not raise anything.
        """

    def submit(command: Command) -> Deferred[Outcome]:
        """The same, for those who wait. Cancelling the Deferred does not undo the command.

        Fails only through a bug: what can go wrong is a `Refusal`.
        """

    def look(path: str) -> Deferred[StreamState | Refusal]:
        """The stream at a path, as it is now. Does not count as an access (§5.1)."""

    def read(
        path: str,
        offset: RequestedOffset,
        limit: int,
        stream_id: int | None = None,
        piece: int | None = None,
    ) -> Deferred[Chunk | Refusal]:
        """Bytes of the stream at a path from an offset of a client, or from a position.

        About ``limit`` bytes: in JSON mode the message that crosses the limit comes whole.
        Counts as an access, which resets a TTL. With ``stream_id`` the stream must still be
        that one, not a later one of the same path. With ``piece`` only the first ``piece`` bytes
        of the answer are read, and `Chunk.more` counts the others.
        """

    def read_range(path: str, stream_id: int, start: int, stop: int) -> Deferred[bytes | Refusal]:
        """Return exactly the stored bytes ``[start, stop)`` of the stream at a path.

        ``stop`` is at most the tail. The range may begin and end inside a message. Refused where
        the path no longer leads to the stream ``stream_id``.
        """

    def pin(stream_id: int) -> None:
        """Keep a stream with a live reader from ending by its TTL. Calls add up."""

    def unpin(stream_id: int) -> None:
        """Undo one `pin`; the TTL starts anew."""

    def watch(listener: Listener) -> None:
        """Call ``listener`` on the reactor's thread, once per commit, with its changes."""

    def ask(question: Callable[[StoreSnapshot], T]) -> Deferred[T | Refusal]:
        """What a function finds in the store as it is now.

        It may be called in a thread, and must copy what it keeps.
        """

    def watch_records(listener: NoteListener) -> None:
        """Call ``listener`` with what each commit did to records of watched tables, before
        the outcomes are told. A note may repeat what is known."""

    def measure(meter: StoreMetrics) -> None:
        """Count what is done into ``meter`` from now on."""

    def levels() -> Deferred[StoreStats | None]:
        """How the store stands on its disk, None where it has none, or cannot tell."""

    def obstacle() -> Deferred[str | None]:
        """Why nothing can be written: a sentence; None where it can.

        Fires when everything that writes has come round: not at all where a part is dead.
        """


class Transaction(Protocol):
    """What carrying out one command needs of a store.

    What is written is read back by later commands of the same batch. `apply` decides
    before it writes, so a refused command leaves no trace and nothing is ever undone.
    """

    changes: list[Change]
    """What listeners will be told."""

    access: AccessTimes
    """The accesses that are not written down yet, and who has expired."""

    def stream_at(self, path: str) -> StreamState | None:
        """The stream that holds a path, deleted ones that live on for their forks too."""

    def stream(self, stream_id: int) -> StreamState | None:
        """The stream of an id."""

    def new_id(self) -> int:
        """An id that was never used and never will be again."""

    @property
    def life(self) -> int:
        """A number that all ids given by this process reach, and none given before."""

    def producer(self, stream_id: int, producer_id: str) -> ProducerState | None:
        """What the stream remembers of a producer."""

    def runs(self, state: StreamState, start: int) -> Iterator[tuple[int, bytes | None]]:
        """The stored messages of a stream in JSON mode, inherited ones too, from a boundary up to
        its tail: sizes of runs of whole messages, and their bytes, at most a record.

        None in their place for one message that is larger than a record.
        """

    def boundary(self, state: StreamState, position: int) -> bool:
        """Whether a position lies between messages (always, outside JSON mode)."""

    def save(self, state: StreamState) -> None:
        """Write a stream's state, new or changed."""

    def save_producer(self, stream_id: int, producer_id: str, state: ProducerState) -> None:
        """Write what a stream remembers of a producer."""

    def append(self, state: StreamState, start: int, body: Body) -> None:
        """Write bytes at ``start``, the tail until now. ``state`` is the stream afterwards."""

    def forget(self, state: StreamState) -> None:
        """End a stream: path, state, producers and bytes (these perhaps in later steps)."""

    # -- records ----------------------------------------------------------------------------

    @property
    def index(self) -> SubscriptionIndex:
        """Which subscriptions there are, kept up to date by whoever writes their records."""

    @property
    def fan_outs(self) -> OrderedDict[str, FanOut]:
        """Unfinished fan-outs by the name of their stream, the oldest first.

        Changed together with their records.
        """

    @property
    def roomy(self) -> bool:
        """Whether there is room; where there is none, what would grow is refused, or waits."""

    def get(self, table: Table[T], key: bytes) -> T | None:
        """The record of a key."""

    def put(self, table: Table[T], key: bytes, value: T) -> None:
        """Set a record."""

    def remove(self, table: Table[T], key: bytes) -> None:
        """Remove a record, if it is there."""

    def range(self, table: Table[T], first: bytes, stop: bytes | None) -> Iterator[tuple[bytes, T]]:
        """The records with ``first <= key < stop``, in order; None for all behind ``first``.

        Write nothing to the table before the walk has ended.
        """

    def owns(self, table: Table[Any], number: int) -> bool:
        """Return whether a number owns any record of a table.

        Takes the same time however many there are, and were removed before.
        """

    def forget_owner(self, number: int) -> None:
        """Let go of all records that a number owns, perhaps in later steps. It is never used
        again."""

    def entropy(self, size: int) -> bytes:
        """Bytes that nobody can guess."""
