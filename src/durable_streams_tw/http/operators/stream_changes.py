"""``GET /-/changes``: long-poll for changes of several streams, so that one connection follows all.

The request names streams and what the client knows of each. The response comes at once if one of
them is different, otherwise after the next commit that changes one, and at the latest after
`WATCH_TIMEOUT` seconds, or `MISSING_TIMEOUT` if one is missing. A watched stream does not expire by
its TTL.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from twisted.internet.defer import Deferred, ensureDeferred
from twisted.internet.interfaces import IReactorTime

from durable_streams_tw.http.limits import MAX_WATCHED, MISSING_TIMEOUT, WATCH_TIMEOUT
from durable_streams_tw.http.operators.listing import describe
from durable_streams_tw.http.operators.resources import Parameters, QueryResource
from durable_streams_tw.protocol.errors import Problem, Refusal, Refused
from durable_streams_tw.protocol.streams.offsets import format_offset
from durable_streams_tw.protocol.streams.state import StreamState
from durable_streams_tw.storage.api import Change, IStreamStore
from durable_streams_tw.storage.queries import StreamStates

States = tuple[StreamState | None, ...]

_MALFORMED: Final = (
    f"the request needs 1 to {MAX_WATCHED} query parameters 'stream', each with one 'seen'"
)


class StreamChanges(QueryResource):
    """Long-polls for the states of streams, with the parameters ``stream`` and ``seen``.

    Both are repeated, in the same order. ``seen`` is the `version` of the stream in the last
    response, empty if there was none.
    """

    def __init__(self, store: IStreamStore, clock: IReactorTime) -> None:
        QueryResource.__init__(self)
        self._store = store
        self._clock = clock
        self._waiting: dict[str, list[Deferred[None]]] = {}
        self._due: list[Deferred[None]] = []
        self._stopping = False
        store.add_listener(self._committed)

    def stop(self) -> None:
        """Send all responses now, and later ones without waiting."""
        self._stopping = True
        for waiting in list(self._waiting.values()):
            self._due += waiting
        self._wake()

    def respond(self, given: Parameters) -> Deferred[dict[str, Any] | Refusal]:
        """Return the states as soon as one of them is not as the client has seen it."""
        paths, seen = given.values.get("stream", []), given.values.get("seen", [])
        if not 1 <= len(paths) <= MAX_WATCHED or len(seen) != len(paths):
            raise Refused(Problem.MALFORMED_REQUEST, _MALFORMED)
        return ensureDeferred(self._watch(tuple(paths), seen))

    async def _watch(self, paths: tuple[str, ...], seen: list[str]) -> dict[str, Any] | Refusal:
        states = await self._store.query(StreamStates(paths))
        if isinstance(states, Refusal):
            return states
        if not self._stopping and _versions(states) == seen:
            newest = await self._watch_known(paths, seen, states)
            if isinstance(newest, Refusal):
                return newest
            states = newest
        return {"streams": [_described(state) for state in states]}

    async def _watch_known(
        self, paths: tuple[str, ...], seen: list[str], states: States
    ) -> States | Refusal:
        """Wait until a stream has changed since ``states`` were read."""
        changed: Deferred[None] = Deferred()
        pinned = [state.id for state in states if state is not None]
        for path in paths:
            self._waiting.setdefault(path, []).append(changed)
        # A store in another process reports changes of pinned streams only, not created streams.
        for stream_id in pinned:
            self._store.pin(stream_id)
        try:
            # Read again: a commit between the first read and the pins was not reported.
            newest = await self._store.query(StreamStates(paths))
            if not self._stopping and _versions(newest) == seen:
                timeout = MISSING_TIMEOUT if None in states else WATCH_TIMEOUT
                await changed.addTimeout(timeout, self._clock, lambda *_: None)
                newest = await self._store.query(StreamStates(paths))
            return newest
        finally:
            for stream_id in pinned:
                self._store.unpin(stream_id)
            for path in paths:
                self._waiting[path].remove(changed)
                if not self._waiting[path]:
                    del self._waiting[path]

    def _committed(self, changes: Sequence[Change]) -> None:
        if not self._waiting:
            return
        known = len(self._due)
        for change in changes:
            self._due += self._waiting.get(change.state.path, ())
        if self._due and not known:
            # In the next turn: the store is still notifying its listeners.
            self._clock.callLater(0, self._wake)

    def _wake(self) -> None:
        due, self._due = self._due, []
        for changed in due:
            if not changed.called:
                changed.callback(None)


def version(state: StreamState | None) -> str:
    """Return text that is different after every change of a stream, empty for no stream."""
    if state is None:
        return ""
    return format_offset(state, state.tail) + (" closed" if state.closed else "")


def _versions(states: States | Refusal) -> list[str] | None:
    return None if isinstance(states, Refusal) else [version(state) for state in states]


def _described(state: StreamState | None) -> dict[str, Any] | None:
    return None if state is None else {**describe(state), "version": version(state)}
