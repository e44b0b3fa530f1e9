"""Interface of a store to the commands: reads and writes of one batch."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from typing import Any, Protocol, TypeVar

from durable_streams_tw.protocol.streams.bodies import Body
from durable_streams_tw.protocol.streams.producers import ProducerState
from durable_streams_tw.protocol.streams.state import StreamState
from durable_streams_tw.protocol.subscriptions.index import SubscriptionIndex
from durable_streams_tw.protocol.subscriptions.state import FanOut
from durable_streams_tw.storage.access_times import AccessTimes
from durable_streams_tw.storage.api import Change
from durable_streams_tw.storage.engine.tables import Table

T = TypeVar("T")


class Transaction(Protocol):
    """Reads and writes of the commands of one batch.

    Later commands of the batch read the writes of earlier ones. A command decides before it
    writes, so a refused command has written nothing and needs no rollback. All methods that read
    may raise `CorruptRecord`.
    """

    changes: list[Change]
    """Changes of streams, which the store passes to its listeners after the commit."""

    access: AccessTimes
    """Access times of streams, with those that no commit contains yet."""

    def stream_at(self, path: str) -> StreamState | None:
        """Return the stream at a path, or None. Include deleted streams that still have forks."""

    def stream(self, stream_id: int) -> StreamState | None:
        """Return the stream with an id, or None."""

    def new_id(self) -> int:
        """Return a stream id that was never returned before, also by earlier processes."""

    @property
    def process_first_id(self) -> int:
        """Least id that this process assigns, greater than those of all earlier processes."""

    def producer(self, stream_id: int, producer_id: str) -> ProducerState | None:
        """Return the state of a stream's producer, or None if the stream does not know it."""

    def message_runs(self, state: StreamState, start: int) -> Iterator[tuple[int, bytes | None]]:
        """Yield runs of messages of a JSON stream from a boundary to its tail: size and bytes.

        Include messages inherited from the source of a fork. A run consists of whole messages of
        at most one record. The bytes are None for a single message that is larger than a record.
        """

    def is_boundary(self, state: StreamState, position: int) -> bool:
        """Return whether a position is a message boundary; always True outside JSON mode."""

    def save(self, state: StreamState) -> None:
        """Write the state of a new or changed stream."""

    def save_producer(self, stream_id: int, producer_id: str, state: ProducerState) -> None:
        """Write the state of a stream's producer."""

    def append(self, state: StreamState, start: int, body: Body) -> None:
        """Append a body at ``start``, the old tail. ``state`` is the stream after the append."""

    def is_receiving(self, path: str) -> bool:
        """Return whether a large body is being staged for a stream, so its tail must not move."""

    def remove_stream(self, state: StreamState) -> None:
        """Remove a stream's path and state now, its bytes and producers now or in later steps."""

    # -- records ----------------------------------------------------------------------------

    @property
    def index(self) -> SubscriptionIndex:
        """Index of subscriptions. A command that writes their records has to update it."""

    @property
    def fan_outs(self) -> OrderedDict[str, FanOut]:
        """Unfinished fan-outs by stream path, the oldest first.

        A command that writes their records has to update it.
        """

    @property
    def has_space(self) -> bool:
        """True if the disk has space. Otherwise commands that need more space are refused."""

    def get(self, table: Table[T], key: bytes) -> T | None:
        """Return the record of a key, or None."""

    def put(self, table: Table[T], key: bytes, value: T) -> None:
        """Write a record."""

    def remove(self, table: Table[T], key: bytes) -> None:
        """Remove a record if it exists."""

    def range(self, table: Table[T], first: bytes, stop: bytes | None) -> Iterator[tuple[bytes, T]]:
        """Yield the records with ``first <= key < stop`` in order; ``stop=None`` has no bound.

        The caller must not write to the table before the iteration ends.
        """

    def owns(self, table: Table[Any], number: int) -> bool:
        """Return whether a number owns any record of a table.

        The time does not depend on how many records the number owns or owned.
        """

    def remove_owned(self, number: int) -> None:
        """Remove all records that a number owns, possibly in later steps.

        The caller must not use the number again.
        """
