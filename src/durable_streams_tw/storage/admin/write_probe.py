"""Whether the disk under a directory takes bytes: by giving it some."""

from __future__ import annotations

import os
import tempfile
from typing import Final

#: A page: what the smallest commit writes, and more than file systems keep inside an inode.
_PROBE: Final = bytes(range(256)) * 16


def write_obstacle(directory: str) -> str | None:
    """Why nothing can be written below a directory, None where it can.

    A file that has no name is written and flushed, so that a disk which is full, read-only or
    gone says so now. Blocks: not for the reactor's thread.
    """
    try:
        with tempfile.TemporaryFile(dir=directory, prefix=".probe-", buffering=0) as file:
            file.write(_PROBE)
            os.fsync(file.fileno())
    except OSError as error:
        return f"the data directory cannot be written: {error.strerror}"
    return None
