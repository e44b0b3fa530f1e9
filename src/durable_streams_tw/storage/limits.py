"""Limits and defaults of the stores.

Sizes are in bytes and times in seconds unless a name says otherwise.
"""

from __future__ import annotations

from typing import Final

from durable_streams_tw.protocol.limits import KIB, MIB

# -- storage ------------------------------------------------------------------------------

#: The largest value of a data record: four pages less LMDB's header, so that no long run
#: of contiguous free pages is ever needed.
MAX_RECORD: Final = 16_368

#: How many stored bytes such a record holds, next to its checksum and flags.
RECORD_PAYLOAD: Final = MAX_RECORD - 5

#: A stream's last record is extended in place up to this size: beyond it LMDB moves a value
#: to overflow pages of its own, and rewriting it would cost a page each time.
MERGE_RECORD: Final = 1_900

#: How many body bytes share one commit; the pages that they dirty are heap.
MAX_BATCH: Final = 16 * MIB

#: How long what is journaled may wait before it goes into the map.
CHECKPOINT_INTERVAL: Final = 0.25

#: How many commands share one commit: each may dirty pages of its own.
MAX_BATCH_COMMANDS: Final = 4_000

#: For how many seconds a batch's commands are decided, and a step of a sweep goes on; writing down
#: what came of them takes about as long again. Commands that there is no time for stay queued.
BATCH_TIME: Final = 0.008

#: How many bytes may wait for the committer. Beyond it appends are answered 503 with
#: Retry-After.
MAX_QUEUE: Final = 256 * MIB

#: How many commands may wait for the committer.
MAX_QUEUED_COMMANDS: Final = 100_000

#: Threads that read from disk.
READ_THREADS: Final = 4

#: Writes stop, with 507, when the disk has less room than this, or than a twentieth of
#: itself where that is less: deleting needs pages too.
DISK_RESERVE: Final = 64 * MIB

#: How many streams' states each cache holds.
STATE_CACHE: Final = 32_768

#: How many producers a stream remembers at least, those that appended last; at most twice as many
#: (``--max-producers``).
MAX_PRODUCERS: Final = 10_000

#: How many producers' states the committer's cache holds.
PRODUCER_CACHE: Final = 65_536

#: How many bytes of streams' last records the committer keeps, to extend them unread.
PAYLOAD_CACHE: Final = 16 * MIB

#: Newest bytes held for readers that ask for them again.
CHUNK_CACHE: Final = 64 * MIB

#: The largest chunk that this cache takes.
CHUNK_CACHE_ENTRY: Final = 64 * KIB

#: How many records one step of a deletion frees.
DELETE_STEP: Final = 1_000

#: How often expired streams are looked for.
SWEEP_INTERVAL: Final = 1.0

#: How many expired streams one sweep takes.
SWEEP_STEP: Final = 1_000

#: After how long the sweep looks again at a stream that it could not read.
SWEEP_RETRY: Final = 3600.0

#: How often readers' resets of a TTL are written down. A crash may shorten a window by as
#: much, never lengthen it.
ACCESS_FLUSH_INTERVAL: Final = 5.0

#: How many of them one step writes.
ACCESS_STEP: Final = 500

#: How often slots of dead readers are freed.
READER_CHECK_INTERVAL: Final = 60.0

#: How many stored bytes behind a fork's offset its sub-offset counts messages in within the
#: transaction.
FORK_INLINE_COUNT: Final = 16 * KIB

#: How many bytes one step of counting beside it looks at, what it costs to look at a run of
#: messages counted as bytes, and how many forks may wait for their turn.
FORK_COUNT_STEP: Final = 512 * KIB
FORK_COUNT_COST: Final = 1 * KIB
MAX_COUNTED_FORKS: Final = 10_000

# -- subscriptions (PROTOCOL.md §6, §7) ---------------------------------------------------

#: How many acks of one request are checked against message boundaries within the transaction.
INLINE_ACKS: Final = 16

#: How many bytes their names may have together.
MAX_WAKE_NAMES: Final = 256 * KIB

#: How many streams a page of the listing has, and the most that can be asked for.
LISTING_PAGE: Final = 100

#: How many names are looked at for one page of the listing.
MAX_LISTING_SCAN: Final = 5_000

#: How many of its records of all kinds the committer remembers.
RECORD_CACHE: Final = 65_536

#: How many keys of a subscription's pending streams the committer looks for at a time, to know
#: whether there is any, and for how many subscriptions it remembers them.
OWNED_AHEAD: Final = 64
OWNED_AHEAD_CACHE: Final = 1_024

#: How much work an event of one stream does for subscriptions in one step, counted in subscriptions
#: looked at (about a microsecond). The rest follows in further steps, on record until it is done.
FAN_OUT_STEP: Final = 5_000

#: What it costs in the same unit to write a cursor, and to find out whether a subscription has
#: any cursor left.
FAN_OUT_WRITE: Final = 16
FAN_OUT_DROP: Final = 40
