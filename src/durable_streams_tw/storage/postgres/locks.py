"""Locks of a batch: which rows it needs, and the one order in which all nodes take them.

A batch takes its locks in this order, and writes only afterwards:

1. the advisory lock of the registry: shared, or exclusive for commands that change which
   subscriptions there are;
2. the row of the node's committer;
3. the rows of streams, by id, in one statement;
4. the rows of subscriptions, by key, in one statement;
5. paths of new streams, by insertion in the order of the paths.

A batch that waits for a lock holds no later one, so no deadlock is possible. A decision that needs
a row which is not locked raises `MissingLock`: the transaction is rolled back and begun again with
that row in the lock set.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from msgspec import Struct, field

from durable_streams_tw.protocol.streams.commands import Append, Create, Delete
from durable_streams_tw.protocol.subscriptions.commands import (
    Delivered,
    LinkStreams,
    Settle,
    Subscribe,
    UnlinkStream,
    Unsubscribe,
)
from durable_streams_tw.protocol.subscriptions.index import Member, SubscriptionIndex
from durable_streams_tw.storage.api import OF_STREAMS, Command
from durable_streams_tw.storage.engine.tables import owned_key, subscription_key

MIGRATION: Final = 1
"""Second key of the advisory lock that a migration holds."""

REGISTRY: Final = 2
"""Second key of the advisory lock of the registry."""

KEYRING: Final = 3
"""Second key of the advisory lock under which signing keys are made and changed."""


_OF_REGISTRY: Final = (Subscribe, Unsubscribe, LinkStreams, UnlinkStream)


class MissingLock(Exception):
    """Need of a row that is not locked: a path, a stream id, or the key of a subscription."""

    def __init__(self, wanted: str | int | bytes) -> None:
        super().__init__(wanted)
        self.wanted = wanted


class LockSet(Struct):
    """Rows that a batch needs: streams by path and by id, and subscriptions by key.

    ``producers`` are pairs of stream path and producer id, which are read only. So are ``cursors``,
    by key, each with the key of its subscription; that is to be locked too if the cursor exists
    (True), does not exist (False), or in any case (None). With ``exclusive`` the batch may change
    which subscriptions there are. With ``wait`` it waits for rows that other nodes have locked.
    """

    paths: set[str] = field(default_factory=set)
    ids: set[int] = field(default_factory=set)
    subscriptions: set[bytes] = field(default_factory=set)
    producers: set[tuple[str, str]] = field(default_factory=set)
    cursors: dict[bytes, tuple[bytes, bool | None]] = field(default_factory=dict)
    exclusive: bool = False
    wait: bool = False

    def add_cursors(self, members: Iterable[Member], path: str, exists: bool) -> None:
        """Add the cursors of a stream's subscriptions, which change if they exist or not."""
        for number, name in members:
            key = owned_key(number, path)
            known = self.cursors.get(key)
            when = exists if known is None or known[1] is exists else None
            self.cursors[key] = subscription_key(name), when


def changes_registry(command: Command) -> bool:
    """Return whether a command may change which subscriptions there are, or their links."""
    return isinstance(command, _OF_REGISTRY)


def paths_of(command: Command) -> Iterable[str]:
    """Return the paths of the streams on which a command decides."""
    if isinstance(command, Create):
        return (command.path,) if command.fork is None else (command.path, command.fork.source)
    if isinstance(command, Append | Delete):
        return (command.path,)
    if isinstance(command, Settle):
        return [ack.path for ack in command.acks]
    if isinstance(command, Delivered):
        return [ack.path for ack in command.seen]
    return ()


def required_locks(
    commands: Iterable[Command], index: SubscriptionIndex, wake_streams: Mapping[bytes, str]
) -> LockSet:
    """Return the rows that commands need, as far as they are known beforehand.

    ``wake_streams`` are those of subscriptions by key, as far as they are known.
    """
    needs = LockSet()
    for command in commands:
        if isinstance(command, OF_STREAMS):
            path = command.path
            needs.paths.add(path)
            if isinstance(command, Append):
                if command.producer is not None:
                    needs.producers.add((path, command.producer.id))
            elif isinstance(command, Create) and command.fork is not None:
                needs.paths.add(command.fork.source)
            if not index:
                continue
            if isinstance(command, Delete):
                needs.add_cursors(index.linked(path), path, True)
                continue
            if command.body is not None and command.body.data:
                needs.add_cursors(index.matching(path), path, False)
            if isinstance(command, Create):
                members = index.with_wake_stream(path)
                needs.subscriptions.update([subscription_key(name) for _, name in members])
            continue
        key = subscription_key(command.id)
        needs.subscriptions.add(key)
        needs.paths.update(paths_of(command))
        needs.exclusive = needs.exclusive or changes_registry(command)
        wake_stream = wake_streams.get(key)
        if wake_stream is not None:
            needs.paths.add(wake_stream)
        if isinstance(command, Subscribe) and command.config.wake_stream is not None:
            # The command removes all cursors of the wake stream: its events wake no subscription.
            path = command.config.wake_stream
            needs.add_cursors(index.linked(path), path, True)
    return needs
