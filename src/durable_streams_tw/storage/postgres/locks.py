"""Locks of a batch: which rows it needs, and the one order in which all nodes take them.

A batch takes its locks in this order, and writes only afterwards:

1. the advisory lock of the registry: shared, or exclusive for commands that change which
   subscriptions there are;
2. the row of the node's lane;
3. the rows of streams, by id, in one statement;
4. the rows of subscriptions, by key, in one statement;
5. paths of new streams, by insertion in the order of the paths.

A batch that waits for a lock holds no later one, so no deadlock is possible. A decision that needs
a row which is not locked raises `Unforeseen`: the transaction is rolled back and begun again with
it.
"""

from __future__ import annotations

from typing import Final

from msgspec import Struct, field

MIGRATION: Final = 1
"""Second key of the advisory lock that a migration holds."""

REGISTRY: Final = 2
"""Second key of the advisory lock of the registry."""

KEYRING: Final = 3
"""Second key of the advisory lock under which signing keys are made and changed."""


class Unforeseen(Exception):
    """Need of a row that is not locked: a path, a stream id, or the key of a subscription."""

    def __init__(self, wanted: str | int | bytes) -> None:
        super().__init__(wanted)
        self.wanted = wanted


class LockSet(Struct):
    """Rows that a batch needs: streams by path and by id, and subscriptions by key.

    ``producers`` are pairs of stream path and producer id, ``cursors`` keys of cursors; these are
    read, under the locks of their streams. With ``exclusive`` the batch may change which
    subscriptions there are.
    """

    paths: set[str] = field(default_factory=set)
    ids: set[int] = field(default_factory=set)
    subscriptions: set[bytes] = field(default_factory=set)
    producers: set[tuple[str, str]] = field(default_factory=set)
    cursors: set[bytes] = field(default_factory=set)
    exclusive: bool = False

    def add(self, unforeseen: Unforeseen) -> None:
        """Add the row that a decision lacked."""
        wanted = unforeseen.wanted
        if isinstance(wanted, str):
            self.paths.add(wanted)
        elif isinstance(wanted, int):
            self.ids.add(wanted)
        else:
            self.subscriptions.add(wanted)
