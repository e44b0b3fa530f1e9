"""The one table of metrics: their names, kinds, labels and meanings.

Names end in their unit, counters in ``_total``. No label ever has a value that a client chose:
paths, users and addresses would make as many series as there are of them, and would tell.
"""

from __future__ import annotations

from typing import Final, Literal

from msgspec import Struct

#: What all names begin with.
NAMESPACE: Final = "durable_streams"


class Family(Struct, frozen=True):
    """A metric. ``name`` comes without the namespace, a counter's without ``_total``."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    meaning: str
    labels: tuple[str, ...] = ()

    @property
    def full_name(self) -> str:
        """The name that queries use; a histogram's without ``_bucket`` and the like."""
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
    "batch_seconds", "histogram", "How long a batch takes, from the first decision to the disk."
)
COMMIT_SECONDS: Final = Family(
    "commit_seconds", "histogram", "How long of it the disk takes: write and flush."
)
QUEUE_SECONDS: Final = Family(
    "queue_wait_seconds", "histogram", "How long the first write of a batch waited for its turn."
)
READ_WAIT_SECONDS: Final = Family(
    "read_wait_seconds", "histogram", "How long reads of the disk waited for a thread."
)
WEBHOOK_CALLS: Final = Family(
    "webhook_calls", "counter", "Webhooks called, by result.", ("result",)
)
DROPPED: Final = Family(
    "dropped_subscribers",
    "counter",
    "Event stream connections that ended before they had all: cut, or gone while they lagged.",
)
CONNECTIONS: Final = Family("connections", "gauge", "Open connections of clients.")
SUBSCRIBERS: Final = Family("live_subscribers", "gauge", "Live readers, by kind.", ("kind",))
LAGGING: Final = Family(
    "lagging_subscribers", "gauge", "Event stream connections that are not caught up."
)
FOLLOWED: Final = Family("followed_streams", "gauge", "Streams that somebody follows live.")
QUEUED: Final = Family("queued_commands", "gauge", "Writes that wait for their answers.")
QUEUED_BYTES: Final = Family("queued_bytes", "gauge", "Bytes in the bodies of these writes.")
JOURNALED: Final = Family(
    "journaled_bytes", "gauge", "Bytes that are journaled and not in the map yet."
)
MAP_USED: Final = Family("map_used_bytes", "gauge", "Bytes of the pages that hold data.")
MAP_FREE: Final = Family("map_free_bytes", "gauge", "How much more the map can hold at most.")
FILE_SIZE: Final = Family("data_file_bytes", "gauge", "The size of the data file.")
DISK_FREE: Final = Family("disk_free_bytes", "gauge", "What the file system has left.")
READERS: Final = Family("snapshots", "gauge", "Snapshots of the store that are open.")
READER_LAG: Final = Family(
    "oldest_reader_commits",
    "gauge",
    "How many commits the oldest snapshot is behind; pages freed since cannot be used again.",
)
BUILD: Final = Family("build_info", "gauge", "Always 1; the labels say what runs.", ("version",))

#: Only where streams are kept on a disk.
ON_DISK: Final = (
    *(BATCH_SIZE, BATCH_SECONDS, COMMIT_SECONDS, QUEUE_SECONDS, READ_WAIT_SECONDS),
    *(COMMITS, FAILED_BATCHES, QUEUED, QUEUED_BYTES),
    *(JOURNALED, MAP_USED, MAP_FREE, FILE_SIZE, DISK_FREE, READERS, READER_LAG),
)

FAMILIES: Final[tuple[Family, ...]] = (
    *(COMMANDS, BODY_BYTES, REFUSALS, WEBHOOK_CALLS),
    *(CONNECTIONS, SUBSCRIBERS, LAGGING, DROPPED, FOLLOWED, BUILD),
    *ON_DISK,
)

#: What is counted from the start, so that a rate is right from the first event on.
RESULTS: Final = ("done", "duplicate", "refused", "failed")
OPERATIONS: Final = ("append", "create", "delete", "subscription")
CALL_RESULTS: Final = ("done", "accepted", "refused", "failed")
