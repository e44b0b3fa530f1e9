"""Handler of writes: it frames bodies and submits commands, in order for each stream.

Validating a large JSON body in a thread, and looking up the content type for a caller in the
process, take time. Later writes to the stream queue until then, so that no append overtakes
another.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from msgspec.structs import replace
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.python.failure import Failure

from durable_streams_tw.http.handlers.deferred_result import PendingResult
from durable_streams_tw.http.limits import INLINE_BODY
from durable_streams_tw.protocol import content_types
from durable_streams_tw.protocol.errors import Refusal, Refused
from durable_streams_tw.protocol.streams import bodies, parsing
from durable_streams_tw.protocol.streams.bodies import Body
from durable_streams_tw.protocol.streams.commands import Append, Create, Delete
from durable_streams_tw.protocol.streams.parsing import HeaderMap
from durable_streams_tw.protocol.streams.preconditions import parse_precondition
from durable_streams_tw.protocol.streams.state import StreamState
from durable_streams_tw.storage.api import Command, IStreamStore, Outcome

InThread = Callable[..., "Deferred[Any]"]
"""Call a function in a thread: ``in_thread(function, *arguments)``."""

Prepare = Callable[[], "Command | Deferred[Command]"]


@dataclass(slots=True, eq=False)
class _QueuedWrite:
    """Write in the queue of a stream, whose command may still have to be prepared."""

    prepare: Prepare
    started: bool = False
    done: bool = False
    is_async: bool = False
    # Cancelling this Deferred does not cancel the write.
    outcome: Deferred[Outcome] = field(default_factory=Deferred)


class WriteHandler:
    """Handler of PUT, POST and DELETE, and of the writes of the embedding program.

    ``now`` returns milliseconds since the Unix epoch. Methods raise `Refused` for malformed
    headers; a refusal by the store is an outcome. Cancelling a returned Deferred does not undo
    the write.
    """

    def __init__(self, store: IStreamStore, now: Callable[[], int], in_thread: InThread) -> None:
        self._store = store
        self._now = now
        self._in_thread = in_thread
        self._queues: dict[str, deque[_QueuedWrite]] = {}

    def create(self, path: str, header: HeaderMap, raw: bytes, root: bytes) -> Deferred[Outcome]:
        """Create a stream (PROTOCOL.md §5.1). ``root`` is the raw path before stream names."""
        fields = parsing.parse_create(header, self._now(), root)

        def command(body: Body) -> Command:
            return Create(
                path,
                fields.content_type,
                fields.lifetime,
                fields.closed,
                body,
                fields.fork,
                fields.precondition,
            )

        # A fork without a content type has its source's; the store frames its body again.
        content_type = fields.content_type or content_types.DEFAULT
        if _is_slow(content_type, raw):
            return self._enqueue(
                path,
                lambda: self._in_thread(bodies.initial, content_type, raw).addCallback(command),
            )
        if path in self._queues:
            return self._enqueue(path, lambda: command(bodies.initial(content_type, raw)))
        return self._store.submit(command(bodies.initial(content_type, raw)))

    def append(self, path: str, header: HeaderMap, raw: bytes) -> Deferred[Outcome]:
        """Append to a stream, close it, or both (PROTOCOL.md §5.2, §5.3)."""
        outcome: Deferred[Outcome] = Deferred()
        self.execute(parsing.parse_append(path, header), raw, outcome)
        return outcome

    def execute(
        self, command: Append, raw: bytes, result: Deferred[Outcome] | PendingResult[Any]
    ) -> None:
        """Execute an append whose body is ``raw``; pass the outcome to ``result``, now or later."""
        if len(raw) > INLINE_BODY or command.path in self._queues:
            queued = self._enqueue(command.path, lambda: self._with_body(command, raw))
            queued.addCallbacks(result.callback, result.errback)
            return
        body = bodies.appended(command.content_type, raw) if raw else None
        self._store.execute(command.with_body(body), result.callback)

    def append_untyped(self, path: str, header: HeaderMap, raw: bytes) -> Deferred[Outcome]:
        """Append bytes that have the stream's own content type, which is looked up first."""
        untyped = parsing.parse_append(path, header)

        def with_state(state: StreamState | Refusal) -> Command | Deferred[Command]:
            if isinstance(state, Refusal):
                raise Refused(state.problem, state.detail, state.headers)
            return self._with_body(replace(untyped, content_type=state.content_type), raw)

        def prepare() -> Deferred[Command]:
            state: Deferred[Any] = self._store.get_state(path)
            return state.addCallback(with_state)

        return self._enqueue(path, prepare)

    def delete(self, path: str, header: HeaderMap) -> Deferred[Outcome]:
        """Delete a stream (PROTOCOL.md §5.4)."""
        command = Delete(path, parse_precondition(header))
        if path in self._queues:
            return self._enqueue(path, lambda: command)
        return self._store.submit(command)

    def _with_body(self, command: Append, raw: bytes) -> Command | Deferred[Command]:
        if not raw:
            return command
        content_type = command.content_type
        if _is_slow(content_type, raw):
            body = self._in_thread(bodies.appended, content_type, raw)
            return body.addCallback(command.with_body)
        return command.with_body(bodies.appended(content_type, raw))

    # -- queues of streams --------------------------------------------------------------------

    def _enqueue(self, path: str, prepare: Prepare) -> Deferred[Outcome]:
        write = _QueuedWrite(prepare)
        queue = self._queues.get(path)
        if queue is not None:
            queue.append(write)
        else:
            self._queues[path] = deque((write,))
            self._advance(path)
        return write.outcome

    def _advance(self, path: str) -> None:
        # A loop: recursion would overflow the stack when thousands of writes are queued.
        queue = self._queues[path]
        while queue:
            write = queue[0]
            if not write.started:
                write.started = True
                prepared: Deferred[Any] = maybeDeferred(write.prepare)
                prepared.addBoth(self._prepared, write, path)
            if not write.done:
                write.is_async = True
                return
            queue.popleft()
        del self._queues[path]

    def _prepared(self, prepared: Command | Failure, write: _QueuedWrite, path: str) -> None:
        write.done = True
        if isinstance(prepared, Failure):
            write.outcome.errback(prepared)
        else:
            # An error that `submit` raises must not keep later writes in the queue.
            maybeDeferred(self._store.submit, prepared).chainDeferred(write.outcome)
        if write.is_async:
            self._advance(path)


def _is_slow(content_type: str | None, raw: bytes) -> bool:
    return (
        len(raw) > INLINE_BODY and content_type is not None and content_types.is_json(content_type)
    )
