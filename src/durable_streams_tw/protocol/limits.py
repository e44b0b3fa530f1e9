"""Every bound and default of the server, each with its reason.

A value that an operator may change has an option of the same name; all others are
fixed here and nowhere else. Sizes are bytes, times are seconds, unless a name says
otherwise.
"""

from __future__ import annotations

from typing import Final

KIB: Final = 1024
MIB: Final = 1024 * KIB

# -- names ---------------------------------------------------------------------------

#: The longest stream name, in bytes of UTF-8 after percent-decoding (PROTOCOL.md §12.2).
MAX_PATH: Final = 2048

#: The first segment that names control resources, never a stream (PROTOCOL.md §6).
RESERVED_SEGMENT: Final = "__ds"

#: Header values that name something of the client's: Producer-Id, Stream-Seq, Content-Type.
#: They are stored with the stream, so they have to stay small.
MAX_TOKEN: Final = 1024

#: Integers of producers stay exact in JavaScript (PROTOCOL.md §5.2.1).
MAX_SAFE_INTEGER: Final = 2**53 - 1

#: The largest position that sixteen digits can write (PROTOCOL.md §8).
MAX_POSITION: Final = 10**16 - 1

#: How many incarnations a stream distinguishes among its positions, but for those that a fork has
#: of its sources; older ones are merged when a process appends for the first time.
MAX_LINEAGE: Final = 64

#: The longest TTL: a century, far from every overflow of a millisecond clock.
MAX_TTL: Final = 100 * 366 * 24 * 3600

# -- requests --------------------------------------------------------------------------

#: The largest request body (``--max-body``).
MAX_BODY: Final = 64 * MIB

#: The deepest nesting of a JSON message, the array around a batch not counted. A limit of
#: our own: what the parser endures depends on how deep its caller's stack already is.
MAX_JSON_DEPTH: Final = 256

#: The most messages of one request. 16 MiB of ``1,`` would be eight million objects.
MAX_JSON_MESSAGES: Final = 100_000

#: Largest body without message boundaries. Every store keeps such a body in one record.
MAX_UNDIVIDED_BODY: Final = 8 * KIB

#: Bodies above this are validated in a thread, so that no client can stop the reactor.
INLINE_BODY: Final = 64 * KIB

#: How many bytes the bodies of all requests may take together, from their first byte until the
#: answer (``--max-body-memory``). Beyond it uploads are answered 503.
MAX_BODIES: Final = 256 * MIB

#: Smaller bodies are never refused to make room for others, and do not count while they wait for
#: their answer: the store's queue bounds them.
LARGE_BODY: Final = 64 * KIB

#: The head of a request: request line and fields. Real ones are far below.
MAX_HEAD: Final = 16 * KIB

#: How many fields a request's head has at most.
MAX_FIELDS: Final = 100

# -- connections -----------------------------------------------------------------------

#: A request's head that has begun is complete within this time.
HEAD_TIMEOUT: Final = 10.0

#: A connection between two requests is kept this long, and longer than a long-poll.
IDLE_TIMEOUT: Final = 60.0

#: How long a request body may pause (``--request-body-timeout``). Programs that append what they
#: are told, such as the tokens of a language model, pause for as long as that does.
BODY_TIMEOUT: Final = 120.0

#: How long a client may leave an answer unread before it is given up.
SEND_TIMEOUT: Final = 60.0

#: How long what was asked may still take when a client has said that it will send no more:
#: one that has left looks just the same.
HALF_CLOSED_TIMEOUT: Final = 10.0

#: How many requests that wait for their turn on one connection stop its reading.
MAX_PIPELINE: Final = 64

#: How many bytes of requests that nobody works on yet stop a connection's reading.
READ_AHEAD: Final = 256 * KIB

#: The longest line that frames a chunk, its extensions included.
MAX_CHUNK_LINE: Final = 256

#: How many connections there may be (``--max-connections``).
MAX_CONNECTIONS: Final = 100_000

#: After an early refusal the rest of the request is read and dropped for this long: closing
#: at once would reset the connection and could take the answer with it (RFC 9112 §9.6).
LINGER: Final = 5.0

#: How much of it: a refused upload is not read beyond this, and the client has the rest of the time
#: to read the answer.
LINGER_BYTES: Final = 1 * MIB

#: How long a server that stops waits for answers to be read.
STOP_GRACE: Final = 5.0

#: How often such a server looks for connections that have become idle.
STOP_CHECK: Final = 0.05

# -- HTTP/2 ----------------------------------------------------------------------------

#: Requests that one connection may have open at a time (SETTINGS_MAX_CONCURRENT_STREAMS).
MAX_STREAMS: Final = 100

#: How many bytes of request bodies a client may send ahead, on a stream and on a connection.
RECEIVE_WINDOW: Final = 1 * MIB

#: The largest field block, as sent and as decoded (RFC 9113 §6.5.2). A head above `MAX_HEAD` is
#: refused with 431; a block above this ends the connection.
MAX_FIELD_BLOCK: Final = 64 * KIB

#: How many frames one field block may be spread over.
MAX_CONTINUATIONS: Final = 16

#: How many field blocks a connection remembers with their meaning.
REMEMBERED_HEADS: Final = 8

#: How many frames of one connection are read before others have their turn.
FRAMES_A_TURN: Final = 128

#: How many frames a request counts for: it is carried out too.
FRAMES_A_REQUEST: Final = 9

#: The same for a reset: a request that is reset at once cost as much as one that is not.
FRAMES_A_RESET: Final = 24

#: How many settings one SETTINGS frame may have; there are seven.
MAX_SETTINGS: Final = 32

#: While this many bytes of answers on one connection are unsent, its next GETs wait.
MAX_UNSENT: Final = 4 * MIB

#: How many catch-up reads of one connection are under way at a time.
MAX_CATCH_UPS: Final = 4

#: A live body pauses when this much of it is unsent.
UNSENT_HIGH: Final = 64 * KIB

#: An answer is taken at this many bytes a second or faster while its window is what it waits for,
#: over `SEND_TIMEOUT`. What a modem could do in 1985.
SEND_RATE: Final = 240

#: How many streams a client may reset, at once and per second (CVE-2023-44487). Streams that the
#: server refuses or resets for an error of the client count too. Beyond it the connection ends.
RESET_BURST: Final = 400
RESET_RATE: Final = 33.0

#: The same for frames that carry nothing: SETTINGS, PING, PRIORITY, empty DATA, unknown types,
#: and windows opened by so little that an answer leaves in pieces below `SMALL_PIECE`.
IDLE_FRAME_BURST: Final = 1_000
IDLE_FRAME_RATE: Final = 33.0

#: Below this size a DATA frame that a window has cut short counts as an idle frame.
SMALL_PIECE: Final = 1 * KIB

# -- answers ---------------------------------------------------------------------------

#: About how many bytes one read inside the process returns, where neither the call nor
#: ``--max-chunk`` says.
MAX_CHUNK: Final = 1 * MIB

#: Smaller answers are not worth compressing.
MIN_GZIP: Final = 1 * KIB

#: Larger answers are compressed in a thread.
INLINE_GZIP: Final = 16 * KIB

# -- live readers ------------------------------------------------------------------------

#: A browser's EventSource is told to reconnect after a random time between these, in milliseconds.
SSE_RETRY_FIRST_MS: Final = 500
SSE_RETRY_LAST_MS: Final = 3_000

#: How many bytes of answers that clients do not read a process holds together
#: (``--max-unread-memory``). Beyond it connections are cut, those that hold most first.
MAX_UNREAD: Final = 256 * MIB

#: A reader is paused when it has left so much of what it was sent to the server: less than a piece.
READER_BUFFER: Final = 16 * KIB

# -- cursors (PROTOCOL.md §10.1) -----------------------------------------------------------

#: 2024-10-09T00:00:00Z.
CURSOR_EPOCH: Final = 1_728_432_000
CURSOR_INTERVAL: Final = 20
CURSOR_MAX_JITTER: Final = 3600

#: Cursors of more digits are not read; ours have eight.
MAX_CURSOR_DIGITS: Final = 100

# -- storage -----------------------------------------------------------------------------

#: How deep forks of forks may go (PROTOCOL.md §4.2 sets none).
MAX_FORK_DEPTH: Final = 1_000

# -- subscriptions (PROTOCOL.md §6, §7) ------------------------------------------------------

#: The longest subscription id, in bytes of UTF-8: it is a key of the store.
MAX_SUBSCRIPTION_ID: Final = 256

#: The longest description, and the longest name of a worker, in characters.
MAX_DESCRIPTION: Final = 1024

#: The longest webhook URL.
MAX_WEBHOOK_URL: Final = 2048

#: How many wildcards a glob may have. Matching is quick with any number; nobody needs more.
MAX_GLOB_STARS: Final = 16

#: How many streams a subscription may name; what matches its glob is not counted.
MAX_EXPLICIT_STREAMS: Final = 10_000

#: The largest body of a control request: some thousands of paths or acks.
MAX_CONTROL_BODY: Final = 1 * MIB

#: Leases, in milliseconds.
DEFAULT_LEASE_TTL_MS: Final = 30_000
MIN_LEASE_TTL_MS: Final = 1_000
MAX_LEASE_TTL_MS: Final = 600_000

#: How many streams one wake shows to its worker; what is left over wakes again.
MAX_WAKE_STREAMS: Final = 1_000

#: How many streams a page of the listing has, and the most that can be asked for.
MAX_LISTING_PAGE: Final = 1_000

#: The pause behind a first failed delivery, and the longest one, in milliseconds. Each
#: failure doubles it, and a share of it is left to chance, lest all retries meet.
RETRY_FIRST_MS: Final = 1_000
RETRY_LAST_MS: Final = 60_000
RETRY_JITTER: Final = 0.2

#: For how many stream names the store remembers which subscriptions they belong to.
MATCH_CACHE: Final = 16_384

#: How many threads validate large JSON bodies and compress large answers.
WORK_THREADS: Final = 4

#: How many connections that there is no room for are told so at a time, and for how long.
MAX_TURNED_AWAY: Final = 64
TURNED_AWAY_LINGER: Final = 2.0

# -- who may do what -----------------------------------------------------------------------

FEW_CONNECTIONS: Final = 8
"""Below so many connections each answer is sent at once."""
