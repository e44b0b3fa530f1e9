"""Table of metrics: names, kinds, labels and help texts.

Names end in their unit, counters in ``_total``. No label has a value that a client can choose:
paths, users and addresses would create unbounded series and disclose names.
"""

from __future__ import annotations

from typing import Final, Literal

from msgspec import Struct

#: Prefix of all names.
NAMESPACE: Final = "durable_streams"


class Family(Struct, frozen=True):
    """Metric. ``name`` omits the namespace, and ``_total`` of a counter."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    meaning: str
    labels: tuple[str, ...] = ()

    @property
    def full_name(self) -> str:
        """Name in queries, without suffixes of a histogram such as ``_bucket``."""
        ending = "_total" if self.kind == "counter" else ""
        return f"{NAMESPACE}_{self.name}{ending}"


COMMANDS: Final = Family(
    "commands", "counter", "Writes that reached the store, by result.", ("operation", "result")
)
BODY_BYTES: Final = Family(
    "body_bytes", "counter", "Bytes in the bodies of these writes, as stored.", ("result",)
)
REFUSALS: Final = Family(
    "refusals", "counter", "Writes that the store refused, by problem.", ("problem",)
)
COMMITS: Final = Family("commits", "counter", "Batches that were made durable.")
FAILED_BATCHES: Final = Family("failed_batches", "counter", "Batches that could not be written.")
BATCH_SIZE: Final = Family("batch_size", "histogram", "Writes that share a batch.")
BATCH_SECONDS: Final = Family(
    "batch_seconds", "histogram", "Duration of a batch from its first command to the flush."
)
COMMIT_SECONDS: Final = Family(
    "commit_seconds", "histogram", "Duration of writing and flushing a batch."
)
QUEUE_SECONDS: Final = Family(
    "queue_wait_seconds", "histogram", "Time that the first write of a batch was queued."
)
READ_WAIT_SECONDS: Final = Family(
    "read_wait_seconds", "histogram", "Time that disk reads waited for a thread."
)
WEBHOOK_CALLS: Final = Family(
    "webhook_calls", "counter", "Webhooks called, by result.", ("result",)
)
DROPPED: Final = Family(
    "dropped_subscribers",
    "counter",
    "SSE connections that ended before they had received all events.",
)
CONNECTIONS: Final = Family("connections", "gauge", "Open connections of clients.")
SUBSCRIBERS: Final = Family("live_subscribers", "gauge", "Live readers, by kind.", ("kind",))
LAGGING: Final = Family("lagging_subscribers", "gauge", "SSE connections that are not caught up.")
FOLLOWED: Final = Family("followed_streams", "gauge", "Streams with live readers.")
QUEUED: Final = Family("queued_commands", "gauge", "Writes that wait for their commit.")
QUEUED_BYTES: Final = Family("queued_bytes", "gauge", "Bytes in the bodies of these writes.")
WAL_BYTES: Final = Family(
    "wal_bytes", "gauge", "Bytes in the write-ahead log that are not in LMDB yet."
)
LMDB_USED: Final = Family("lmdb_used_bytes", "gauge", "Bytes of LMDB pages in use.")
LMDB_FREE: Final = Family("lmdb_free_bytes", "gauge", "Bytes up to LMDB's map size.")
FILE_SIZE: Final = Family("data_file_bytes", "gauge", "The size of the data file.")
DISK_FREE: Final = Family("disk_free_bytes", "gauge", "Free bytes of the file system.")
READERS: Final = Family("snapshots", "gauge", "Open snapshots of the store.")
READER_LAG: Final = Family(
    "oldest_reader_commits",
    "gauge",
    "Commits since the oldest snapshot; pages freed since then cannot be reused.",
)
DEFERRED: Final = Family(
    "deferred_commands", "counter", "Writes that waited for rows that another node had locked."
)
RESTARTS: Final = Family(
    "restarted_batches", "counter", "Batches that began again, by reason.", ("reason",)
)
RECONNECTS: Final = Family(
    "database_reconnects", "counter", "Connections that replaced a broken one."
)
HINTS: Final = Family("hints", "counter", "Notifications of other nodes about changed streams.")
LATE: Final = Family(
    "late_changes", "counter", "Changes at other nodes that were found without a notification."
)
NODES: Final = Family("database_nodes", "gauge", "Nodes that use the database, this one included.")
DEAD_ROWS: Final = Family(
    "database_dead_rows", "gauge", "Rows of the table of streams that vacuum has to remove."
)
SNAPSHOT_AGE: Final = Family(
    "database_snapshot_seconds", "gauge", "Age of the oldest snapshot in the database."
)
BUILD: Final = Family("build_info", "gauge", "Always 1; the label is the version.", ("version",))

#: Metrics of stores that commit batches: in a directory or in a database.
BATCHES: Final = (
    *(BATCH_SIZE, BATCH_SECONDS, COMMIT_SECONDS, QUEUE_SECONDS, READ_WAIT_SECONDS),
    *(COMMITS, FAILED_BATCHES, QUEUED, QUEUED_BYTES),
)

#: Metrics of a durable store only.
ON_DISK: Final = (*(WAL_BYTES, LMDB_USED, LMDB_FREE, FILE_SIZE, DISK_FREE, READERS, READER_LAG),)

#: Metrics of a node on a PostgreSQL database only.
DATABASE: Final = (DEFERRED, RESTARTS, RECONNECTS, HINTS, LATE, NODES, DEAD_ROWS, SNAPSHOT_AGE)

#: Gauges of something that all workers of a server share.
SHARED: Final = (
    *(WAL_BYTES, LMDB_USED, LMDB_FREE, FILE_SIZE, DISK_FREE, READERS, READER_LAG),
    *DATABASE,
    BUILD,
)

FAMILIES: Final[tuple[Family, ...]] = (
    *(COMMANDS, BODY_BYTES, REFUSALS, WEBHOOK_CALLS),
    *(CONNECTIONS, SUBSCRIBERS, LAGGING, DROPPED, FOLLOWED, BUILD),
    *BATCHES,
    *ON_DISK,
    *DATABASE,
)

#: Label values that start at 0, so that rates include the first event.
RESULTS: Final = ("done", "duplicate", "refused", "failed")
OPERATIONS: Final = ("append", "create", "delete", "subscription")
CALL_RESULTS: Final = ("done", "accepted", "refused", "failed")
