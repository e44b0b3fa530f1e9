"""Writes: bodies are framed, commands submitted, each stream's in the order they came.

A large JSON body is validated in a thread, and a caller inside the process may leave the
content type to be looked up. Either takes a while, and what is asked of the same stream
meanwhile waits its turn, so that no append overtakes another.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred, maybeDeferred
from twisted.python.failure import Failure

from durable_streams_tw.http.limits import INLINE_BODY
from durable_streams_tw.protocol import content_types
from durable_streams_tw.protocol.errors import Refusal, Refused
from durable_streams_tw.protocol.streams import bodies, parsing
from durable_streams_tw.protocol.streams.bodies import Body
from durable_streams_tw.protocol.streams.commands import Append, Create, Delete
from durable_streams_tw.protocol.streams.parsing import AppendHeaders, HeaderMap
from durable_streams_tw.protocol.streams.preconditions import parse_precondition
from durable_streams_tw.protocol.streams.state import StreamState
from durable_streams_tw.storage.api import Command, IStreamStore, Outcome

InThread = Callable[..., "Deferred[Any]"]
"""Calls a function in a thread: ``in_thread(function, *arguments)``."""

Prepare = Callable[[], "Command | Deferred[Command]"]


class _Turn:
    """One write that waits for its turn, or for its command."""

    __slots__ = ("begun", "calls_back", "done", "outcome", "prepare")

    def __init__(self, prepare: Prepare) -> None:
        self.prepare = prepare
        self.begun = False
        self.done = False
        self.calls_back = False
        # Whoever cancels has stopped waiting; the write goes on.
        self.outcome: Deferred[Outcome] = Deferred()


class WriteHandler:
    """The way of every write into the store.

    ``now`` tells the time in milliseconds since 1970. Methods raise `Refused` where the
    fields are malformed; what the store refuses is the outcome. Cancelling a Deferred that
    they return does not undo the write.
    """

    def __init__(self, store: IStreamStore, now: Callable[[], int], in_thread: InThread) -> None:
        self._store = store
        self._now = now
        self._in_thread = in_thread
        self._turns: dict[str, deque[_Turn]] = {}

    def create(self, path: str, header: HeaderMap, raw: bytes, root: bytes) -> Deferred[Outcome]:
        """PUT (PROTOCOL.md §5.1); ``root`` is the raw path that stream names stand behind."""
        asked = parsing.parse_create(header, self._now(), root)

        def command(body: Body) -> Command:
            return Create(
                path,
                asked.content_type,
                asked.lifetime,
                asked.closed,
                body,
                asked.fork,
                asked.precondition,
            )

        # The body of a fork that names no type is framed as what its source holds.
        content_type = asked.content_type or content_types.DEFAULT
        if _takes_long(content_type, raw):
            return self._in_turn(
                path, lambda: self._framed(bodies.initial, content_type, raw, command)
            )
        if path in self._turns:
            return self._in_turn(path, lambda: command(bodies.initial(content_type, raw)))
        return self._store.submit(command(bodies.initial(content_type, raw)))

    def append(self, path: str, header: HeaderMap, raw: bytes) -> Deferred[Outcome]:
        """POST (PROTOCOL.md §5.2, §5.3)."""
        outcome: Deferred[Outcome] = Deferred()
        self.append_for(path, header, raw, outcome.callback, outcome.errback)
        return outcome

    def append_for(
        self,
        path: str,
        header: HeaderMap,
        raw: bytes,
        told: Callable[[Outcome], object],
        failed: Callable[[Failure], object],
    ) -> None:
        """The same, for one who is told, at once or later, and must not raise anything then."""
        asked = parsing.parse_append(header)
        if _takes_long(asked.content_type, raw) or path in self._turns:
            turn = self._in_turn(path, lambda: self._append(path, asked, asked.content_type, raw))
            turn.addCallbacks(told, failed)
            return
        body = bodies.appended(asked.content_type, raw) if raw else None
        self._store.execute(
            Append(
                path,
                asked.content_type,
                body,
                asked.closed,
                asked.stream_seq,
                asked.producer,
                asked.precondition,
            ),
            told,
        )

    def append_as_it_is(self, path: str, header: HeaderMap, raw: bytes) -> Deferred[Outcome]:
        """An append whose content type is the stream's, whatever that is."""
        asked = parsing.parse_append(header)

        def looked_up(state: StreamState | Refusal) -> Command | Deferred[Command]:
            if isinstance(state, Refusal):
                raise Refused(state.problem, state.detail, state.fields)
            return self._append(path, asked, state.content_type, raw)

        def prepare() -> Deferred[Command]:
            looked: Deferred[Any] = self._store.get_state(path)
            return looked.addCallback(looked_up)

        return self._in_turn(path, prepare)

    def delete(self, path: str, header: HeaderMap) -> Deferred[Outcome]:
        """DELETE (PROTOCOL.md §5.4)."""
        command = Delete(path, parse_precondition(header))
        if path in self._turns:
            return self._in_turn(path, lambda: command)
        return self._store.submit(command)

    def _append(
        self, path: str, asked: AppendHeaders, content_type: str | None, raw: bytes
    ) -> Command | Deferred[Command]:
        def command(body: Body | None) -> Command:
            return Append(
                path,
                content_type,
                body,
                asked.closed,
                asked.stream_seq,
                asked.producer,
                asked.precondition,
            )

        if not raw:
            return command(None)
        if _takes_long(content_type, raw):
            return self._framed(bodies.appended, content_type, raw, command)
        return command(bodies.appended(content_type, raw))

    def _framed(
        self,
        frame: Callable[[Any, bytes], Body],
        content_type: str | None,
        raw: bytes,
        command: Callable[[Body], Command],
    ) -> Deferred[Command]:
        return self._in_thread(frame, content_type, raw).addCallback(command)

    # -- turns ------------------------------------------------------------------------------

    def _in_turn(self, path: str, prepare: Prepare) -> Deferred[Outcome]:
        turn = _Turn(prepare)
        queue = self._turns.get(path)
        if queue is not None:
            queue.append(turn)
        else:
            self._turns[path] = deque((turn,))
            self._advance(path)
        return turn.outcome

    def _advance(self, path: str) -> None:
        # A loop and no recursion, for thousands may wait behind one.
        queue = self._turns[path]
        while queue:
            turn = queue[0]
            if not turn.begun:
                turn.begun = True
                prepared: Deferred[Any] = maybeDeferred(turn.prepare)
                prepared.addBoth(self._prepared, turn, path)
            if not turn.done:
                turn.calls_back = True
                return
            queue.popleft()
        del self._turns[path]

    def _prepared(self, prepared: Command | Failure, turn: _Turn, path: str) -> None:
        turn.done = True
        if isinstance(prepared, Failure):
            turn.outcome.errback(prepared)
        else:
            self._store.submit(prepared).chainDeferred(turn.outcome)
        if turn.calls_back:
            self._advance(path)


def _takes_long(content_type: str | None, raw: bytes) -> bool:
    return (
        len(raw) > INLINE_BODY and content_type is not None and content_types.is_json(content_type)
    )
