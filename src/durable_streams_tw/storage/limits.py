"""Limits and defaults of the stores.

Sizes are in bytes and times in seconds unless a name says otherwise.
"""

from __future__ import annotations

from typing import Final

from durable_streams_tw.protocol.limits import KIB, MIB

# -- storage ------------------------------------------------------------------------------

# Largest value of a data record: four pages less LMDB's header. A larger value would need a longer
# run of contiguous free pages.
MAX_RECORD: Final = 16_368

# Stored bytes in such a record, without its checksum and flags.
RECORD_PAYLOAD: Final = MAX_RECORD - 5

# Size up to which a stream's last record is extended in place. LMDB moves a larger value to
# overflow pages, and rewriting it would cost a page each time.
MERGE_RECORD: Final = 1_900

# Body bytes per batch: writing them takes some 10 ms. Larger bodies are staged.
MAX_BATCH: Final = 4 * MIB

# Bytes of a staged body per batch.
STAGE_STEP: Final = 2 * MIB

#: Time from a commit in the write-ahead log to the next checkpoint.
CHECKPOINT_INTERVAL: Final = 0.25

# Commands per batch; each may dirty pages of its own.
MAX_BATCH_COMMANDS: Final = 4_000

# Time for the commands of one batch, or one step of a sweep; writing their changes takes about as
# long again. Further commands stay queued.
BATCH_TIME: Final = 0.008

#: Body bytes that may wait for the committer thread. Above it commands are refused with 503.
MAX_QUEUE: Final = 256 * MIB

#: Commands that may wait for the committer thread.
MAX_QUEUED_COMMANDS: Final = 100_000

#: Reader threads of a durable store.
READ_THREADS: Final = 4

#: Free disk space, or a twentieth of the disk if that is less, below which writes are refused with
#: 507. Deletions need pages too.
DISK_RESERVE: Final = 64 * MIB

# States of streams in the read cache, and in the write cache.
STATE_CACHE: Final = 32_768

#: Producers that a stream remembers at least, the most recent ones; at most twice as many
#: (``--max-producers``).
MAX_PRODUCERS: Final = 10_000

# States of producers in the write cache.
PRODUCER_CACHE: Final = 65_536

# Bytes of last data records in the write cache, which are extended without reading them.
PAYLOAD_CACHE: Final = 16 * MIB

#: Bytes of newest chunks in the read cache.
CHUNK_CACHE: Final = 64 * MIB

# Largest chunk in the read cache.
CHUNK_CACHE_ENTRY: Final = 64 * KIB

# Records that one step of a sweep deletes.
DELETE_STEP: Final = 1_000

#: Interval of the sweep.
SWEEP_INTERVAL: Final = 1.0

# Expired streams that one step of a sweep ends.
SWEEP_STEP: Final = 1_000

# Time until the sweep retries a stream whose record it could not read.
SWEEP_RETRY: Final = 3600.0

#: Interval at which access times are written. A crash may shorten a TTL by as much, never extend
#: it.
ACCESS_FLUSH_INTERVAL: Final = 5.0

# Access times that one batch writes.
ACCESS_STEP: Final = 500

# Interval at which LMDB's reader slots of dead processes are freed.
READER_CHECK_INTERVAL: Final = 60.0

# Stored bytes after a fork's offset up to which its sub-offset is resolved in the transaction;
# above it, reader threads count the messages first.
FORK_INLINE_COUNT: Final = 16 * KIB

# Counting on a reader thread: bytes that one step reads, cost of a run of messages in bytes, and
# most forks that wait for their count.
FORK_COUNT_STEP: Final = 512 * KIB
FORK_COUNT_COST: Final = 1 * KIB
MAX_COUNTED_FORKS: Final = 10_000

# -- PostgreSQL store -----------------------------------------------------------------------

#: Time in ms after which PostgreSQL ends a transaction whose node does nothing: a frozen node
#: holds its locks no longer.
MAX_IDLE_TRANSACTION: Final = 5_000

# -- subscriptions (PROTOCOL.md §6, §7) ---------------------------------------------------

# Acks of one request that are checked against message boundaries in the transaction; more are
# checked on a reader thread first.
INLINE_ACKS: Final = 16

#: Bytes of all stream names in one wake.
MAX_WAKE_NAMES: Final = 256 * KIB

#: Streams in the description of a subscription.
MAX_LISTED_STREAMS: Final = 10_000

#: Names scanned for streams that the glob of a described subscription matches.
MAX_SCANNED_NAMES: Final = 100_000

# Streams per page of a listing.
LISTING_PAGE: Final = 100

#: Names examined for one page of a listing.
MAX_LISTING_SCAN: Final = 5_000

# Records of tables in the write cache.
RECORD_CACHE: Final = 65_536

# Keys of a subscription's pending streams that the committer reads ahead to know whether any is
# left, and number of subscriptions for which it caches such keys.
OWNED_AHEAD: Final = 64
OWNED_AHEAD_CACHE: Final = 1_024

# Most work of one step of a fan-out, in subscriptions examined (about 1 µs each). Further steps do
# the rest, which is stored until it is done.
FAN_OUT_STEP: Final = 5_000

# Cost of writing a cursor, and of finding out whether a subscription has any cursor left, in the
# unit of `FAN_OUT_STEP`.
FAN_OUT_WRITE: Final = 16
FAN_OUT_DROP: Final = 40

#: Time after a subscription's action was due at which another node takes it from a node that
#: neither acts nor renews it (seconds).
DUTY_HELD: Final = 20.0

# -- remote store -------------------------------------------------------------------------

# Size at which a frame between processes is sent, and size of the parts in which larger messages
# are sent.
FRAME_SIZE: Final = 256 * KIB

# Largest frame that is accepted, and most bytes of one message in parts: the largest body with its
# message boundaries.
MAX_FRAME: Final = 64 * MIB
MAX_MESSAGE: Final = 2 * MAX_QUEUE

# Bytes that a front process may leave unread before the owner of the store closes its connection.
MAX_BACKLOG: Final = 64 * MIB

# Largest append whose bytes are sent to front processes with live readers; as large as the tail
# buffer of their streams. Readers read larger ones from the store.
MAX_SENT_CHANGE: Final = 1 * MIB

#: Time for which live readers and transfers of a front process wait for the owner of the store.
OUTAGE_GRACE: Final = 30.0

# First and longest delay between attempts to connect to the owner.
RECONNECT_FIRST: Final = 0.05
RECONNECT_LAST: Final = 0.5
