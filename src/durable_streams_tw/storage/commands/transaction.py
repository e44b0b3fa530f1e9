"""Interface between the commands and a store: reads and writes of one batch."""

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
    """Reads and writes that the commands of one batch make on a store.

    Later commands of the batch read what earlier ones wrote. A command decides before it writes,
    so a refused command leaves no trace and nothing is rolled back.
    """

    changes: list[Change]
    """Changes that listeners are notified of after the commit."""

    access: AccessTimes
    """Access times that are not written yet."""

    def stream_at(self, path: str) -> StreamState | None:
        """Return the stream that holds a path, deleted ones that still have forks included."""

    def stream(self, stream_id: int) -> StreamState | None:
        """Return the stream of an id."""

    def new_id(self) -> int:
        """Return a stream id that is never used twice."""

    @property
    def process_first_id(self) -> int:
        """Return the least id that this process can give: greater than all given before it."""

    def producer(self, stream_id: int, producer_id: str) -> ProducerState | None:
        """Return the state of a stream's producer."""

    def message_runs(self, state: StreamState, start: int) -> Iterator[tuple[int, bytes | None]]:
        """Yield size and bytes of runs of messages of a JSON stream, from a boundary to its tail.

        Inherited messages are included. A run has whole messages, of at most a record. The
        bytes of a single message that is larger than a record are None.
        """

    def is_boundary(self, state: StreamState, position: int) -> bool:
        """Return whether a position lies between messages; always true outside JSON mode."""

    def save(self, state: StreamState) -> None:
        """Write the state of a new or changed stream."""

    def save_producer(self, stream_id: int, producer_id: str, state: ProducerState) -> None:
        """Write the state of a stream's producer."""

    def append(self, state: StreamState, start: int, body: Body) -> None:
        """Append a body at ``start``, the old tail; ``state`` is the stream after the append."""

    def is_receiving(self, path: str) -> bool:
        """Return whether a large body is being written to a stream: then its tail must not move."""

    def remove_stream(self, state: StreamState) -> None:
        """Remove a stream's path, state, producers and bytes; bytes possibly in later steps."""

    # -- records ----------------------------------------------------------------------------

    @property
    def index(self) -> SubscriptionIndex:
        """Return the index of subscriptions; a command that writes their records updates it."""

    @property
    def fan_outs(self) -> OrderedDict[str, FanOut]:
        """Return the unfinished fan-outs by stream name, the oldest first.

        A command that writes their records updates it.
        """

    @property
    def has_space(self) -> bool:
        """Return whether the disk has space; without it, commands that need more are refused."""

    def get(self, table: Table[T], key: bytes) -> T | None:
        """Return the record of a key."""

    def put(self, table: Table[T], key: bytes, value: T) -> None:
        """Write a record."""

    def remove(self, table: Table[T], key: bytes) -> None:
        """Remove a record if it exists."""

    def range(self, table: Table[T], first: bytes, stop: bytes | None) -> Iterator[tuple[bytes, T]]:
        """Yield the records with ``first <= key < stop`` in order; ``stop=None`` has no bound.

        Do not write to the table before the iteration ends.
        """

    def owns(self, table: Table[Any], number: int) -> bool:
        """Return whether a number owns any record of a table.

        Takes constant time, however many records the number owns or owned.
        """

    def remove_owned(self, number: int) -> None:
        """Remove all records that a number owns, possibly in later steps.

        The number must not be used again.
        """

    def random_bytes(self, size: int) -> bytes:
        """Return unpredictable bytes."""
