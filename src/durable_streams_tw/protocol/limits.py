"""Limits of the protocol and of parsing requests.

Sizes are in bytes and times in seconds unless a name says otherwise.
"""

from __future__ import annotations

from typing import Final

KIB: Final = 1024
MIB: Final = 1024 * KIB

# -- streams ------------------------------------------------------------------------------

#: Longest stream path, in bytes of UTF-8 after percent-decoding (PROTOCOL.md §12.2).
MAX_PATH: Final = 2048

#: First path segment of control resources; no stream path begins with it (PROTOCOL.md §6).
RESERVED_SEGMENT: Final = "__ds"

#: Longest Producer-Id, Stream-Seq and Content-Type, in bytes. Every state of a stream holds them.
MAX_TOKEN: Final = 1024

#: Largest producer epoch and sequence number: exact in JavaScript (PROTOCOL.md §5.2.1).
MAX_SAFE_INTEGER: Final = 2**53 - 1

#: Largest position that sixteen digits can express (PROTOCOL.md §8).
MAX_POSITION: Final = 10**16 - 1

#: Incarnations in a stream's own lineage. Older ones are merged, which makes their offsets
#: indistinguishable. Incarnations inherited from the source of a fork are not counted.
MAX_LINEAGE: Final = 64

#: Longest TTL in seconds: a century, so that no deadline overflows a millisecond clock.
MAX_TTL: Final = 100 * 366 * 24 * 3600

#: Deepest chain of forks (PROTOCOL.md §4.2 sets no limit).
MAX_FORK_DEPTH: Final = 1_000

# -- JSON mode (PROTOCOL.md §9.1) ---------------------------------------------------------

#: Deepest nesting of a JSON message, not counting the array around a batch. Without it the
#: depth that the parser accepts would depend on the stack of its caller.
MAX_JSON_DEPTH: Final = 256

#: Most messages of one request: 16 MiB of ``1,`` would otherwise become eight million objects.
MAX_JSON_MESSAGES: Final = 100_000

# Largest body without message boundaries. Every store keeps such a body in one record.
MAX_UNDIVIDED_BODY: Final = 8 * KIB

# -- live reads ---------------------------------------------------------------------------

#: Shortest and longest of the random reconnection times sent to EventSource.
SSE_RETRY_FIRST_MS: Final = 500
SSE_RETRY_LAST_MS: Final = 3_000

# Epoch of cursors (2024-10-09T00:00:00Z), their interval and their largest jitter, in seconds
# (PROTOCOL.md §10.1).
CURSOR_EPOCH: Final = 1_728_432_000
CURSOR_INTERVAL: Final = 20
CURSOR_MAX_JITTER: Final = 3600

# Longer cursors of clients are ignored; those of the server have eight digits.
MAX_CURSOR_DIGITS: Final = 100

# -- subscriptions (PROTOCOL.md §6, §7) ---------------------------------------------------

#: Longest subscription id, in bytes of UTF-8: it is part of a key of the store.
MAX_SUBSCRIPTION_ID: Final = 256

#: Longest description of a subscription and longest name of a worker, in characters.
MAX_DESCRIPTION: Final = 1024

#: Longest webhook URL, in bytes.
MAX_WEBHOOK_URL: Final = 2048

#: Most wildcards of a glob.
MAX_GLOB_STARS: Final = 16

#: Most explicit streams of a subscription; streams that match its glob are not counted.
MAX_EXPLICIT_STREAMS: Final = 10_000

#: Most streams that one request may add: each is a record, and a request is one transaction.
MAX_LINKED_AT_ONCE: Final = 2_000

#: Largest body of a control request: some thousands of paths or acks.
MAX_CONTROL_BODY: Final = 1 * MIB

#: Default, shortest and longest lease of a wake.
DEFAULT_LEASE_TTL_MS: Final = 30_000
MIN_LEASE_TTL_MS: Final = 1_000
MAX_LEASE_TTL_MS: Final = 600_000

#: Most streams in one wake. If more are pending, the subscription wakes again.
MAX_WAKE_STREAMS: Final = 1_000

#: Delay before the first retry of a webhook, longest delay before any retry, and share of the
#: delay that is random, so that the retries of many subscriptions do not coincide. Each failure
#: doubles the delay.
RETRY_FIRST_MS: Final = 1_000
RETRY_LAST_MS: Final = 60_000
RETRY_JITTER: Final = 0.2

# Paths whose matching subscriptions the index caches.
MATCH_CACHE: Final = 16_384
