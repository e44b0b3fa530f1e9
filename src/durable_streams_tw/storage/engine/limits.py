"""Limits of the key-value engine and its write-ahead log. Sizes are bytes."""

from __future__ import annotations

from typing import Final

from durable_streams_tw.protocol.limits import KIB, MIB

MAP_SIZE: Final = 1024 * 1024 * MIB
"""Address space of the LMDB environment. It never grows; what it covers is not allocated."""

MAX_READERS: Final = 1024
"""Slots of the table of readers that all processes share."""

SEGMENT_SIZE: Final = 8 * MIB
"""Size of each WAL segment. The memtable holds as much."""

MAX_WAL_ENTRY: Final = 512 * KIB
"""Largest WAL entry. A larger batch is committed to LMDB directly: writing its bytes twice would
cost more than the flush that the WAL saves."""
