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
    """Metric. ``name`` omits the namespace, and ``_total`` of a counter.

    ``source`` is the attribute with its value, of the statistics that its group is made of.
    """

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    meaning: str
    labels: tuple[str, ...] = ()
    source: str = ""

    @property
    def full_name(self) -> str:
        """Name in queries, without suffixes of a histogram such as ``_bucket``."""
        ending = "_total" if self.kind == "counter" else ""
        return f"{NAMESPACE}_{self.name}{ending}"


def _counter(source: str, name: str, meaning: str) -> Family:
    return Family(name, "counter", meaning, source=source)


def _gauge(source: str, name: str, meaning: str) -> Family:
    return Family(name, "gauge", meaning, source=source)


def _histogram(source: str, name: str, meaning: str) -> Family:
    return Family(name, "histogram", meaning, source=source)


COMMANDS: Final = Family(
    "commands", "counter", "Writes that reached the store, by result.", ("operation", "result")
)
BODY_BYTES: Final = Family(
    "body_bytes", "counter", "Bytes in the bodies of these writes, as stored.", ("result",)
)
REFUSALS: Final = Family(
    "refusals", "counter", "Writes that the store refused, by problem.", ("problem",)
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
RESTARTS: Final = Family(
    "restarted_batches", "counter", "Batches that began again, by reason.", ("reason",)
)
BUILD: Final = Family("build_info", "gauge", "Always 1; the label is the version.", ("version",))

#: Metrics of `StoreMetrics`, of stores that commit batches: in a directory or in a database.
BATCHES: Final = (
    _histogram("batch_size", "batch_size", "Writes that share a batch."),
    _histogram(
        "batch_seconds",
        "batch_seconds",
        "Duration of a batch from its first command to the flush.",
    ),
    _histogram("commit_seconds", "commit_seconds", "Duration of writing and flushing a batch."),
    _histogram(
        "queue_seconds", "queue_wait_seconds", "Time that the first write of a batch was queued."
    ),
    _histogram(
        "read_wait_seconds", "read_wait_seconds", "Time that disk reads waited for a thread."
    ),
    _counter("commits", "commits", "Batches that were made durable."),
    _counter("failures", "failed_batches", "Batches that could not be written."),
)

#: Metrics of the statistics of these stores.
QUEUE: Final = (
    _gauge("queued", "queued_commands", "Writes that wait for their commit."),
    _gauge("queued_bytes", "queued_bytes", "Bytes in the bodies of these writes."),
)

#: Metrics of `StoreStats`, of a durable store only.
ON_DISK: Final = (
    _gauge("wal_bytes", "wal_bytes", "Bytes in the write-ahead log that are not in LMDB yet."),
    _gauge("lmdb_used", "lmdb_used_bytes", "Bytes of LMDB pages in use."),
    _gauge("lmdb_free", "lmdb_free_bytes", "Bytes up to LMDB's map size."),
    _gauge("file_size", "data_file_bytes", "The size of the data file."),
    _gauge("disk_free", "disk_free_bytes", "Free bytes of the file system."),
    _gauge("readers", "snapshots", "Open snapshots of the store."),
    _gauge(
        "reader_lag",
        "oldest_reader_commits",
        "Commits since the oldest snapshot; pages freed since then cannot be reused.",
    ),
)

#: Metrics of `NodeStats`, of a node on a PostgreSQL database only.
DATABASE: Final = (
    _counter(
        "deferred",
        "deferred_commands",
        "Writes that waited for rows that another node had locked.",
    ),
    RESTARTS,
    _counter("reconnects", "database_reconnects", "Connections that replaced a broken one."),
    _counter("hints", "hints", "Notifications of other nodes about changed streams."),
    _counter(
        "late", "late_changes", "Changes at other nodes that were found without a notification."
    ),
    _gauge("nodes", "database_nodes", "Nodes that use the database, this one included."),
    _gauge(
        "dead_rows",
        "database_dead_rows",
        "Rows of the table of streams that vacuum has to remove.",
    ),
    _gauge(
        "snapshot_age", "database_snapshot_seconds", "Age of the oldest snapshot in the database."
    ),
)

#: Gauges of something that all workers of a server share.
SHARED: Final = (*ON_DISK, *DATABASE, BUILD)

FAMILIES: Final[tuple[Family, ...]] = (
    *(COMMANDS, BODY_BYTES, REFUSALS, WEBHOOK_CALLS),
    *(CONNECTIONS, SUBSCRIBERS, LAGGING, DROPPED, FOLLOWED, BUILD),
    *(*BATCHES, *QUEUE, *ON_DISK, *DATABASE),
)

#: Label values that start at 0, so that rates include the first event.
RESULTS: Final = ("done", "duplicate", "refused", "failed")
OPERATIONS: Final = ("append", "create", "delete", "subscription")
CALL_RESULTS: Final = ("done", "accepted", "refused", "failed")
