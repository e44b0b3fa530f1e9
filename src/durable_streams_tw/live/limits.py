"""Limits and defaults of live reads.

Sizes are in bytes and times in seconds unless a name says otherwise.
"""

from __future__ import annotations

from typing import Final

from durable_streams_tw.protocol.limits import KIB, MIB

# -- answers ------------------------------------------------------------------------------

#: The most bytes that an answer or an event stream holds in memory, about. What is longer is read
#: and sent in pieces of this size, or smaller ones where many readers are slow.
READ_PIECE: Final = 256 * KIB

# -- live readers -------------------------------------------------------------------------

#: How long a long-poll waits (``--long-poll-timeout``).
LONG_POLL_TIMEOUT: Final = 30.0

#: After how long an SSE connection is asked to reconnect (``--sse-reconnect-interval``,
#: PROTOCOL.md §10.2).
SSE_RECONNECT_INTERVAL: Final = 60.0

#: Each connection lives for a random part of that, so that connections that began together, after
#: a restart say, do not come back together for ever: from ``1 - SSE_LIFETIME_SPREAD`` to 1, in so
#: many steps.
SSE_LIFETIME_SPREAD: Final = 0.2
SSE_LIFETIMES: Final = 16

#: A comment goes to an SSE connection that was silent for this long: many proxies, and
#: HTTP/2 peers, close what says nothing.
SSE_COMMENT_INTERVAL: Final = 15.0

#: Pieces of answers and event streams get smaller where readers that do not read hold more than
#: this together, down to `LEAST_PIECE`.
SLOW_READERS: Final = 64 * MIB
LEAST_PIECE: Final = 16 * KIB

#: How much of a followed stream's newest bytes is kept for its caught-up subscribers.
#: One that has fallen further behind reads from the store.
TAIL_WINDOW: Final = 1 * MIB

#: How many subscribers one turn of the reactor writes to, and how many while commits come faster
#: than all are reached: a writer waits for two or three such slices, and the sooner it goes on, the
#: more it appends that reaches the others in one piece.
FANOUT_SLICE: Final = 25
FANOUT_SLICE_IN_BURSTS: Final = 5

#: How many timeouts that fall together fire in one turn of the reactor.
TIMEOUT_SLICE: Final = 100
