"""Index of subscriptions by the streams that they match.

Explicit links are looked up by path, globs in a trie of their segments. Results are cached, so
another append to the same stream costs one dictionary lookup.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from durable_streams_tw.protocol.limits import MATCH_CACHE
from durable_streams_tw.protocol.subscriptions.globs import MANY, ONE, Glob

Member = tuple[int, str]
"""Number and id of a subscription."""

_NONE: Final[tuple[Member, ...]] = ()


@dataclass(slots=True, eq=False)
class _Node:
    """Node of the trie: its children, and the subscriptions whose globs end at it."""

    # True for the node of a **, which matches any further segment.
    loops: bool
    children: dict[str | int, _Node] = field(default_factory=dict)
    ends: dict[int, str] = field(default_factory=dict)


class SubscriptionIndex:
    """Index of subscriptions by stream.

    A wake stream matches no subscription: otherwise a wake would cause wakes.
    """

    def __init__(self) -> None:
        self._root = _Node(False)
        self._explicit: dict[str, dict[int, str]] = {}
        # Explicit links by subscription number, so that `remove` reads no records.
        self._links: dict[int, set[str]] = {}
        self._wake_streams: dict[str, dict[int, str]] = {}
        self._found: dict[str, tuple[Member, ...]] = {}
        self._size = 0

    def __bool__(self) -> bool:
        """Return whether there is any subscription."""
        return self._size > 0

    def matching(self, path: str) -> tuple[Member, ...]:
        """Return the subscriptions that match a stream path."""
        found = self._found.get(path)
        if found is None:
            found = _NONE if path in self._wake_streams else self._search(path)
            if len(self._found) >= MATCH_CACHE:
                self._found.clear()
            self._found[path] = found
        return found

    def with_wake_stream(self, path: str) -> tuple[Member, ...]:
        """Return the subscriptions whose wake stream has a path, by number."""
        known = self._wake_streams.get(path)
        return _NONE if known is None else tuple(sorted(known.items()))

    def linked(self, path: str) -> tuple[Member, ...]:
        """Return the subscriptions that `matching` would give if the stream were no wake stream."""
        return self._search(path) if path in self._wake_streams else self.matching(path)

    # -- changes ----------------------------------------------------------------------------

    def add(self, member: Member, glob: Glob | None, wake_stream: str | None) -> None:
        """Add a subscription; its explicit links are added by `link`."""
        number, name = member
        self._size += 1
        if wake_stream is not None:
            self._wake_streams.setdefault(wake_stream, {})[number] = name
        if glob is not None:
            node = self._root
            for part in glob:
                child = node.children.get(part)
                if child is None:
                    child = node.children[part] = _Node(part == MANY)
                node = child
            node.ends[number] = name
        self._found.clear()

    def remove(self, member: Member, glob: Glob | None, wake_stream: str | None) -> None:
        """Remove a subscription and its explicit links."""
        number, _ = member
        self._size -= 1
        if wake_stream is not None:
            _take(self._wake_streams, wake_stream, number)
        if glob is not None:
            self._prune(glob, number)
        for path in self._links.pop(number, ()):
            _take(self._explicit, path, number)
        self._found.clear()

    def link(self, member: Member, path: str) -> None:
        """Add an explicit link."""
        number, name = member
        self._explicit.setdefault(path, {})[number] = name
        self._links.setdefault(number, set()).add(path)
        self._found.pop(path, None)

    def unlink(self, member: Member, path: str) -> None:
        """Remove an explicit link."""
        _take(self._explicit, path, member[0])
        self._links.get(member[0], set()).discard(path)
        self._found.pop(path, None)

    # -- the trie ---------------------------------------------------------------------------

    def _search(self, path: str) -> tuple[Member, ...]:
        # Set of nodes that the segments so far can reach.
        places = _with_many({self._root: None})
        for segment in path.split("/"):
            reached: dict[_Node, None] = {}
            for node in places:
                for part in (segment, ONE):
                    child = node.children.get(part)
                    if child is not None:
                        reached[child] = None
                if node.loops:
                    reached[node] = None
            if not reached:
                places = reached
                break
            places = _with_many(reached)
        found = dict(self._explicit.get(path, ()))
        for node in places:
            found.update(node.ends)
        return tuple(sorted(found.items()))

    def _prune(self, glob: Glob, number: int) -> None:
        nodes = [self._root]
        for part in glob:
            nodes.append(nodes[-1].children[part])
        nodes[-1].ends.pop(number, None)
        for part, parent in zip(reversed(glob), reversed(nodes[:-1]), strict=True):
            child = parent.children[part]
            if child.children or child.ends:
                return
            del parent.children[part]


def _with_many(places: dict[_Node, None]) -> dict[_Node, None]:
    # A ** also matches no segment. Globs have no two in a row, so one pass is enough.
    for node in list(places):
        many = node.children.get(MANY)
        if many is not None:
            places[many] = None
    return places


def _take(table: dict[str, dict[int, str]], path: str, number: int) -> None:
    known = table.get(path)
    if known is not None:
        known.pop(number, None)
        if not known:
            del table[path]
