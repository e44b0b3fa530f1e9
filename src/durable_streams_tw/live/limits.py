"""Limits and defaults of live reads.

Sizes are in bytes and times in seconds unless a name says otherwise.
"""

from __future__ import annotations

from typing import Final

from durable_streams_tw.protocol.limits import KIB, MIB

# -- responses ----------------------------------------------------------------------------

#: Size of the pieces in which long responses are read and sent, and about the most memory that one
#: response takes. Pieces are smaller if many clients are slow.
READ_PIECE: Final = 256 * KIB

# -- live readers -------------------------------------------------------------------------

#: Longest wait of a long-poll (``--long-poll-timeout``).
LONG_POLL_TIMEOUT: Final = 30.0

#: Time after which the server ends an SSE connection so that the client reconnects
#: (``--sse-reconnect-interval``, PROTOCOL.md §10.2).
SSE_RECONNECT_INTERVAL: Final = 60.0

#: Largest share of that interval by which a connection ends earlier, at random, and number of
#: different lifetimes. Without it, connections that began together would always reconnect
#: together.
SSE_LIFETIME_SPREAD: Final = 0.2
SSE_LIFETIMES: Final = 16

#: Idle time after which an SSE connection gets a comment. Many proxies close idle connections.
SSE_COMMENT_INTERVAL: Final = 15.0

#: Memory for pieces that slow clients have not read, and the least size to which pieces shrink to
#: stay within it.
SLOW_READERS: Final = 64 * MIB
LEAST_PIECE: Final = 16 * KIB

#: Size of the tail buffer of a stream with SSE subscribers. Subscribers further behind read from
#: the store.
TAIL_WINDOW: Final = 1 * MIB

# Subscribers that one reactor turn writes to: normally, and while a commit arrives before the last
# one has reached all. A writer waits for two or three such slices. With small ones it appends more
# before the other subscribers are reached, which then get fewer and larger writes.
FANOUT_SLICE: Final = 25
FANOUT_SLICE_IN_BURSTS: Final = 5

# Timeouts of one queue that fire in one reactor turn.
TIMEOUT_SLICE: Final = 100
