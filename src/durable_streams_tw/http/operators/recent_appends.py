"""Positions at which recent appends to streams began.

Streams other than JSON do not keep the boundaries of appends, so an operator who reads one sees
only bytes. These positions let the console show one row per append, for the appends since the
server started and within limits.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import OrderedDict, deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from durable_streams_tw.http.limits import RECENT_APPENDS, RECENT_STREAMS
from durable_streams_tw.storage.api import Change


@dataclass(slots=True, eq=False)
class _Starts:
    """Start positions of appends to one stream, and the tail after the last of them."""

    positions: deque[int] = field(default_factory=lambda: deque(maxlen=RECENT_APPENDS))
    tail: int = -1


class RecentAppends:
    """Start positions of the last appends to the streams that were appended to last.

    Subscribe `record` to a store with `IStreamStore.add_listener`.
    """

    def __init__(self) -> None:
        self._known: OrderedDict[int, _Starts] = OrderedDict()

    def record(self, changes: Sequence[Change]) -> None:
        """Record the appends of one commit."""
        known = self._known
        for change in changes:
            stream_id = change.state.id
            if change.gone:
                known.pop(stream_id, None)
            elif change.data:
                starts = known.get(stream_id)
                if starts is None:
                    starts = known[stream_id] = _Starts()
                    if len(known) > RECENT_STREAMS:
                        known.popitem(last=False)
                else:
                    known.move_to_end(stream_id)
                if change.start != starts.tail:
                    # A store in another process reports the changes of pinned streams only.
                    starts.positions.clear()
                starts.positions.append(change.start)
                starts.tail = change.state.tail

    def within(self, stream_id: int, start: int, stop: int) -> list[int]:
        """Return the known positions before ``stop``, from the last one that is at most ``start``.

        From the first one on no append is missing.
        """
        known = self._known.get(stream_id)
        if known is None:
            return []
        positions = list(known.positions)
        first = max(bisect_right(positions, start) - 1, 0)
        return positions[first : bisect_left(positions, stop)]
