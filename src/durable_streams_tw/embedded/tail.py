"""``async for`` over a stream: what is there, then what comes, until it is closed."""

from __future__ import annotations

from twisted.internet.defer import Deferred

from durable_streams_tw.embedded.values import Batch, StreamError, batch_of
from durable_streams_tw.live.long_poll import LongPolls
from durable_streams_tw.protocol.errors import Problem, Refusal
from durable_streams_tw.protocol.streams.offsets import RequestedOffset
from durable_streams_tw.storage.api import Chunk, IStreamStore

_STOPPED = Refusal(Problem.STOPPING, "the streams are stopping")


class Following:
    """Batches of one stream from a position on, as an asynchronous iterator.

    Between two batches it holds nothing: whoever leaves the loop, by ``break`` or by an
    exception, has nothing to close. Raises `StreamError` where the stream cannot be read, is
    deleted, or the streams are stopped.
    """

    def __init__(
        self,
        store: IStreamStore,
        long_polls: LongPolls,
        path: str,
        offset: RequestedOffset,
        limit: int,
    ) -> None:
        self._store = store
        self._long_polls = long_polls
        self._path = path
        self._offset = offset
        self._limit = limit
        self._seen: Chunk | None = None

    def __aiter__(self) -> Following:
        return self

    async def __anext__(self) -> Batch:
        """The next batch that has any bytes."""
        while True:
            seen = self._seen
            if seen is not None and seen.at_tail and seen.state.closed:
                raise StopAsyncIteration
            chunk = await self._next(seen)
            if isinstance(chunk, Refusal):
                raise StreamError(chunk)
            self._seen = chunk
            if chunk.data:
                return batch_of(chunk)

    def _next(self, seen: Chunk | None) -> Deferred[Chunk | Refusal]:
        if seen is None:
            return self._store.read(self._path, self._offset, self._limit)
        if not seen.at_tail:
            return self._store.read(self._path, seen.end, self._limit, seen.state.id)
        if self._long_polls.stopping:
            raise StreamError(_STOPPED)
        return self._long_polls.wait(Chunk(seen.state, seen.end, b""), self._limit)
