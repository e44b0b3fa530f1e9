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

#: The deepest nesting of a JSON message, the array around a batch not counted. A limit of
#: our own: what the parser endures depends on how deep its caller's stack already is.
MAX_JSON_DEPTH: Final = 256

#: The most messages of one request. 16 MiB of ``1,`` would be eight million objects.
MAX_JSON_MESSAGES: Final = 100_000

#: Largest body without message boundaries. Every store keeps such a body in one record.
MAX_UNDIVIDED_BODY: Final = 8 * KIB

# -- answers ---------------------------------------------------------------------------

#: About how many bytes one read inside the process returns, where neither the call nor
#: ``--max-chunk`` says.
MAX_CHUNK: Final = 1 * MIB

# -- live readers ------------------------------------------------------------------------

#: A browser's EventSource is told to reconnect after a random time between these, in milliseconds.
SSE_RETRY_FIRST_MS: Final = 500
SSE_RETRY_LAST_MS: Final = 3_000

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

#: How many of them one request may add: each is a record, and a request is one transaction.
MAX_LINKED_AT_ONCE: Final = 2_000

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
