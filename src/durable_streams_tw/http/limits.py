"""Limits and defaults of the HTTP servers.

Sizes are bytes and times are seconds unless a name says otherwise. A value that an operator may
change names its option; all others are fixed.
"""

from __future__ import annotations

from typing import Final

from durable_streams_tw.protocol.limits import KIB as KIB
from durable_streams_tw.protocol.limits import MIB as MIB

# -- requests --------------------------------------------------------------------------

#: Largest request body (``--max-body``).
MAX_BODY: Final = 64 * MIB

# Larger bodies are validated in a thread, so that they do not block the reactor.
INLINE_BODY: Final = 64 * KIB

#: Memory for the bodies of all requests, from the first byte to the response
#: (``--max-body-memory``). Uploads beyond it get 503.
BODY_MEMORY: Final = 256 * MIB

# Smaller bodies are never refused to free memory for others. They also stop counting once they
# are complete: the store's queue bounds them from then on.
LARGE_BODY: Final = 64 * KIB

#: Largest head of a request: request line and header fields.
MAX_HEAD: Final = 16 * KIB

#: Most header fields of a request.
MAX_FIELDS: Final = 100

#: Longest line that frames a chunk of a chunked body, extensions included.
MAX_CHUNK_LINE: Final = 256

# -- connections -----------------------------------------------------------------------

#: Time to complete the head of a request once its first byte has arrived.
HEAD_TIMEOUT: Final = 10.0

#: Time that a connection may stay idle between two requests. Longer than a long-poll.
IDLE_TIMEOUT: Final = 60.0

#: Longest pause within a request body (``--request-body-timeout``). Programs that append what
#: they receive, such as tokens of a language model, pause as long as their source does.
BODY_TIMEOUT: Final = 120.0

#: Time that a client may leave a response unread before its connection is closed.
SEND_TIMEOUT: Final = 60.0

#: Time for a pending response after the client has closed its side: a client that has vanished
#: looks the same.
HALF_CLOSED_TIMEOUT: Final = 10.0

#: Most pipelined requests queued on one connection before the server stops reading from it.
MAX_PIPELINE: Final = 64

#: Most bytes of queued requests on one connection before the server stops reading from it.
READ_AHEAD: Final = 256 * KIB

#: Most open connections (``--max-connections``).
MAX_CONNECTIONS: Final = 100_000


#: Time that the server reads and discards the rest of a request after an early response: closing
#: at once would reset the connection and could lose the response (RFC 9112 §9.6).
LINGER: Final = 5.0

#: Most bytes that the server discards after an early response; then it stops reading.
LINGER_BYTES: Final = 1 * MIB

#: Time that a stopping server waits for clients to read their responses.
STOP_GRACE: Final = 5.0

# Interval at which a stopping server checks for idle connections.
STOP_CHECK: Final = 0.05

#: Most connections over the limit that are sent a 429 or 503 at a time, and for how long each is
#: kept; further ones are reset.
MAX_REJECTED: Final = 64
REJECTED_LINGER: Final = 2.0

# With fewer open connections each response is sent at once; with more, responses are collected
# until the end of the reactor turn.
DEFERRED_SEND_CONNECTIONS: Final = 8

# -- HTTP/2 ----------------------------------------------------------------------------

#: Most open requests of one connection (SETTINGS_MAX_CONCURRENT_STREAMS).
MAX_STREAMS: Final = 100

#: Receive window of a stream and of a connection.
RECEIVE_WINDOW: Final = 1 * MIB

#: Largest field block, as sent and as decoded (RFC 9113 §6.5.2). A larger block ends the
#: connection; a head within it that is above the limit of all requests gets 431.
MAX_FIELD_BLOCK: Final = 64 * KIB

#: Most frames of one field block.
MAX_CONTINUATIONS: Final = 16

# Decoded field blocks that a connection caches.
REMEMBERED_HEADS: Final = 8

# Frames of one connection that are processed before others get their turn.
FRAMES_PER_TURN: Final = 128

# Frames that a request counts for, since it is executed too.
REQUEST_COST: Final = 9

# Frames that a reset counts for: a request that is reset at once costs as much as another.
RESET_COST: Final = 24

#: Most entries of one SETTINGS frame. Seven are defined.
MAX_SETTINGS: Final = 32

#: Unsent response bytes of one connection above which its next GETs wait.
MAX_UNSENT: Final = 4 * MIB

#: Most concurrent catch-up reads of one connection.
MAX_CATCH_UPS: Final = 4

# Unsent bytes of one streamed body above which its producer is paused.
UNSENT_HIGH: Final = 64 * KIB

#: Lowest rate at which a client must open the window of a response, in bytes per second averaged
#: over the time that it may leave a response unread. About the speed of a 2,400 bit/s modem.
SEND_RATE: Final = 240

#: Streams that a client may reset at once and per second (CVE-2023-44487). Streams that the server
#: refuses or resets for an error of the client count too. More end the connection.
RESET_BURST: Final = 400
RESET_RATE: Final = 33.0

#: Frames without payload that a client may send at once and per second: SETTINGS, PING, PRIORITY,
#: empty DATA and unknown types. DATA frames that a small window has cut below 1 KiB count too. More
#: end the connection.
IDLE_FRAME_BURST: Final = 1_000
IDLE_FRAME_RATE: Final = 33.0

# Size of a DATA frame below which it counts as an idle frame if a window has cut it.
SMALL_PIECE: Final = 1 * KIB

# -- responses -------------------------------------------------------------------------

#: Smaller responses are not compressed.
MIN_GZIP: Final = 1 * KIB

# Larger responses are compressed in a thread.
INLINE_GZIP: Final = 16 * KIB

#: Memory for bytes that clients have not read, over all connections (``--max-unread-memory``).
#: Beyond it the connections that hold most are closed.
UNREAD_MEMORY: Final = 256 * MIB

# Unsent bytes in the transport at which its producer is paused.
READER_BUFFER: Final = 16 * KIB

#: Bytes of one read through the embedding API, about, if neither the call nor ``--max-chunk``
#: sets them.
MAX_CHUNK: Final = 1 * MIB

# Threads that validate large JSON bodies and compress large responses.
WORK_THREADS: Final = 4

# -- operators -------------------------------------------------------------------------

#: Most streams of one page of the stream listing.
MAX_LISTING_PAGE: Final = 1_000

#: Names examined for one listing that is sorted by size or activity, and in one step of it.
MAX_SORTED_SCAN: Final = 50_000
SORT_STEP: Final = 500

#: Stored bytes in one response of ``/-/bytes``.
MAX_SHOWN_BYTES: Final = 256 * KIB

#: Streams that one request to ``/-/changes`` watches, and the time after which it gets a response
#: without a change: less than the time that proxies wait, and shorter if a stream is missing.
MAX_WATCHED: Final = 100
WATCH_TIMEOUT: Final = 20.0
MISSING_TIMEOUT: Final = 2.0

#: Streams of which the positions of recent appends are kept, and positions per stream.
RECENT_STREAMS: Final = 256
RECENT_APPENDS: Final = 1_000
