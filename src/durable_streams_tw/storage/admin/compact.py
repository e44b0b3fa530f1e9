"""Compaction of the data file of a stopped store.

A copy without free pages is written beside the data file, verified and flushed, and then replaces
it. An interrupted compaction leaves the old file.
"""

from __future__ import annotations

import os
from typing import Final

from msgspec import Struct

from durable_streams_tw.storage import files
from durable_streams_tw.storage.admin.copy import Progress, copy_store, require_free_space
from durable_streams_tw.storage.admin.inspect import Inspection, match_owner
from durable_streams_tw.storage.admin.verify import refuse_flawed_wal, verify
from durable_streams_tw.storage.data_dir import DataDirLock, exclude_readers
from durable_streams_tw.storage.errors import StoreUnusable, store_unusable

_DRAFT: Final = files.DATA_FILE + ".compacting"


class Compacted(Struct, frozen=True):
    """Sizes of the data file before and after a compaction, in bytes."""

    before: int
    after: int


def compact(directory: str, progress: Progress, *, even_flawed: bool = False) -> Compacted:
    """Rewrite the data file of a store that no server uses, without free pages.

    Raises `StoreUnusable`, and `FlawedStore` if the store fails its check, unless
    ``even_flawed``; the data file is then unchanged.
    """
    data = os.path.join(directory, files.DATA_FILE)
    if not os.path.exists(data):
        raise StoreUnusable(f"there is no store in {directory}")
    if os.path.islink(data):
        raise StoreUnusable(f"{data} is a symbolic link: it cannot be replaced")
    lock = DataDirLock(directory)
    match_owner(os.path.join(directory, files.OWNER_FILE), data)
    draft = os.path.join(directory, _DRAFT)
    try:
        with (
            store_unusable(f"the data directory {directory} cannot be used"),
            exclude_readers(directory),
        ):
            files.remove_files(directory, [_DRAFT])
            with Inspection(data, alone=True, wal=directory, tolerant=even_flawed) as source:
                refuse_flawed_wal(source, directory, even_flawed)
                usage = source.usage()
                require_free_space(directory, usage.used)
                copied = copy_store(source, draft, progress)
            with Inspection(draft, alone=True) as compacted:
                verify(compacted, directory, progress, tolerant=even_flawed)
            match_owner(draft, data)
            # LMDB must not apply the old file's lock table to the new file.
            files.remove_files(directory, [files.LOCK_FILE])
            os.replace(draft, data)
            files.persist(directory)
    finally:
        files.remove_files(directory, [_DRAFT])
        lock.release()
    return Compacted(usage.file, copied.size)
