"""``GET /-/bytes``: stored bytes before or after an offset, so that a console can read backwards.

The protocol reads forwards only, and in JSON mode only from message boundaries. The bytes are
those of the log: in JSON mode each message is followed by a comma, and the first or last one of a
response may be cut. The client finds the boundaries, so the server parses nothing.
"""

from __future__ import annotations

from base64 import b64encode
from typing import Any

from twisted.internet.defer import Deferred, ensureDeferred

from durable_streams_tw.http.limits import MAX_SHOWN_BYTES
from durable_streams_tw.http.operators.listing import describe
from durable_streams_tw.http.operators.recent_appends import RecentAppends
from durable_streams_tw.http.operators.resources import Parameters, QueryResource
from durable_streams_tw.protocol.errors import Problem, Refusal, Refused
from durable_streams_tw.protocol.limits import KIB
from durable_streams_tw.protocol.streams.lineage import lineage_of
from durable_streams_tw.protocol.streams.offsets import parse_offset, resolve
from durable_streams_tw.storage.api import IStreamStore


class StreamBytes(QueryResource):
    """Bytes of the stream ``stream`` that end at ``before`` or begin at ``after``, both offsets.

    Without an offset, the response has the last bytes. ``limit`` is the number of bytes.
    """

    def __init__(self, store: IStreamStore) -> None:
        QueryResource.__init__(self)
        self._store = store
        self._recent = RecentAppends()
        store.add_listener(self._recent.record)

    def respond(self, given: Parameters) -> Deferred[dict[str, Any] | Refusal]:
        """Return the bytes and the state of the stream."""
        after, before = given.text("after"), given.text("before")
        if after and before:
            raise Refused(Problem.MALFORMED_REQUEST, "give after or before, not both")
        limit = given.number("limit", 64 * KIB, MAX_SHOWN_BYTES)
        path = given.text("stream")
        return ensureDeferred(self._read(path, after or before or "now", bool(after), limit))

    async def _read(
        self, path: str, offset: str, forwards: bool, limit: int
    ) -> dict[str, Any] | Refusal:
        requested = parse_offset(offset)
        if forwards:
            # Refuses an offset inside a message. Bytes that end inside one are allowed: a client
            # that looks for the beginning of a large message asks for them.
            found = await self._store.read(path, requested, 0)
            if isinstance(found, Refusal):
                return found
            state, start = found.state, found.start
            stop = min(start + limit, state.tail)
        else:
            known = await self._store.get_state(path)
            if isinstance(known, Refusal):
                return known
            position = resolve(known, requested)
            if isinstance(position, Refusal):
                return position
            state, start, stop = known, max(position - limit, 0), position
        data = await self._store.read_range(path, state.id, start, stop)
        if isinstance(data, Refusal):
            return data
        lineage = lineage_of(state)
        return {
            "stream": describe(state),
            "start": start,
            "data": b64encode(data).decode("ascii"),
            "appends": self._recent.within(state.id, start, stop),
            # As text: JavaScript's numbers have 53 bits.
            "incarnations": [
                [begin, str(number)]
                for number, begin in zip(lineage.ids, lineage.starts, strict=True)
            ],
        }
