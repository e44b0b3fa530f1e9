"""Positions at which recent appends to streams began.

Streams other than JSON do not keep the boundaries of appends, so an operator who reads one sees
only bytes. These positions let the console show one row per append, for the appends since the
server started and within limits.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Sequence

from durable_streams_tw.http.limits import RECENT_APPENDS, RECENT_STREAMS
from durable_streams_tw.storage.api import Change


class RecentAppends:
    """Start positions of the last appends to the streams that were appended to last.

    Subscribe `record` to a store with `IStreamStore.add_listener`.
    """

    def __init__(self) -> None:
        self._starts: OrderedDict[int, deque[int]] = OrderedDict()

    def record(self, changes: Sequence[Change]) -> None:
        """Record the appends of one commit."""
        known = self._starts
        for change in changes:
            stream_id = change.state.id
            if change.gone:
                known.pop(stream_id, None)
            elif change.data:
                starts = known.get(stream_id)
                if starts is None:
                    starts = known[stream_id] = deque(maxlen=RECENT_APPENDS)
                    if len(known) > RECENT_STREAMS:
                        known.popitem(last=False)
                else:
                    known.move_to_end(stream_id)
                starts.append(change.start)

    def within(self, stream_id: int, start: int, stop: int) -> list[int]:
        """Return the known positions in ``[start, stop)``, in order.

        From the first one on no append is missing.
        """
        return [at for at in self._starts.get(stream_id, ()) if start <= at < stop]
