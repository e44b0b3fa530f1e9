"""Asynchronous iteration over a stream: stored bytes, then new ones, until it is closed."""

from __future__ import annotations

from dataclasses import dataclass

from twisted.internet.defer import Deferred

from durable_streams_tw.embedded.values import Batch, StreamError, batch
from durable_streams_tw.live.long_poll import LongPolls
from durable_streams_tw.protocol.errors import Refusal
from durable_streams_tw.protocol.streams.offsets import RequestedOffset
from durable_streams_tw.storage.api import STOPPING, Chunk, IStreamStore


@dataclass(eq=False)
class StreamTail:
    """Asynchronous iterator over the batches of one stream from an offset.

    It holds no resources between batches, so leaving the loop needs no cleanup. Iteration raises
    `StreamError` if the stream cannot be read or is deleted, or when the streams are stopped.
    """

    _store: IStreamStore
    _long_polls: LongPolls
    _path: str
    _offset: RequestedOffset
    _limit: int
    _last: Chunk | None = None

    def __aiter__(self) -> StreamTail:
        return self

    async def __anext__(self) -> Batch:
        """Return the next batch that is not empty."""
        while True:
            last = self._last
            if last is not None and last.at_tail and last.state.closed:
                raise StopAsyncIteration
            chunk = await self._next(last)
            if isinstance(chunk, Refusal):
                raise StreamError(chunk)
            self._last = chunk
            if chunk.data:
                return batch(chunk)

    def _next(self, last: Chunk | None) -> Deferred[Chunk | Refusal]:
        if last is None:
            return self._store.read(self._path, self._offset, self._limit)
        if not last.at_tail:
            return self._store.read(self._path, last.end, self._limit, last.state.id)
        if self._long_polls.stopping:
            raise StreamError(STOPPING)
        return self._long_polls.wait(Chunk(last.state, last.end, b""), self._limit)
