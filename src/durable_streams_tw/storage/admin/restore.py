"""Restore of a backup into a data directory.

Files are written under draft names, verified, flushed and then renamed, the data file last. An
interrupted restore leaves no store, and never changes an existing one.
"""

from __future__ import annotations

import os
from typing import Final

from durable_streams_tw.storage import files
from durable_streams_tw.storage.admin import copy
from durable_streams_tw.storage.admin.backup import Manifest, read_manifest
from durable_streams_tw.storage.admin.inspect import Inspection, match_owner
from durable_streams_tw.storage.admin.verify import verify
from durable_streams_tw.storage.data_dir import DataDirLock
from durable_streams_tw.storage.errors import StoreUnusable, store_unusable

_DRAFT: Final = ".restoring"


def restore(
    backup: str,
    directory: str,
    now: int,
    progress: copy.Progress,
    *,
    even_flawed: bool = False,
    deep: bool = False,
) -> Manifest:
    """Restore a backup into a data directory and return its manifest.

    ``now`` is in ms since the Unix epoch. The directory may exist, without a store and without
    foreign files. Raises `StoreUnusable`, and `FlawedStore` if the backup fails its check, unless
    ``even_flawed``.
    """
    manifest = read_manifest(backup)
    if os.path.exists(os.path.join(directory, files.DATA_FILE)):
        raise StoreUnusable(
            f"the data directory {directory} already has a store: restore into an empty directory"
        )
    lock = DataDirLock(directory, _interrupted_files(directory, manifest))
    try:
        with store_unusable(f"the data directory {directory} cannot be used"):
            try:
                _copy_files(manifest, backup, directory, progress)
                draft = os.path.join(directory, files.DATA_FILE + _DRAFT)
                with Inspection(draft, alone=True) as copied:
                    verify(copied, backup, progress, deep=deep, tolerant=even_flawed)
                copy.detach(draft, now)
                for file in manifest.files:
                    match_owner(os.path.join(directory, file.name + _DRAFT), directory)
            except BaseException:
                files.remove_files(directory, [file.name + _DRAFT for file in manifest.files])
                raise
            files.remove_files(directory, [files.LOCK_FILE])
            # The data file last: without it there is no store. Flush before each rename: a power
            # cut may reorder unflushed ones, and leave a store without its keys, or keys without
            # a store.
            for file in sorted(manifest.files, key=lambda file: file.name == files.DATA_FILE):
                files.persist(directory)
                path = os.path.join(directory, file.name)
                os.replace(path + _DRAFT, path)
            files.persist(directory)
            match_owner(os.path.join(directory, files.OWNER_FILE), directory)
    finally:
        lock.release()
    return manifest


def _interrupted_files(directory: str, manifest: Manifest) -> frozenset[str]:
    """Return the names of files that an interrupted restore may have left."""
    names = {file.name for file in manifest.files}
    drafts = {name + _DRAFT for name in names}
    if os.path.exists(os.path.join(directory, files.DATA_FILE + _DRAFT)):
        return frozenset(drafts | names)
    return frozenset(drafts)


def _copy_files(manifest: Manifest, backup: str, directory: str, progress: copy.Progress) -> None:
    """Copy the files of a backup to their draft names, and compare sizes and digests."""
    files.remove_files(directory, [file.name + _DRAFT for file in manifest.files])
    copy.require_free_space(directory, sum(file.size for file in manifest.files))
    for file in manifest.files:
        draft = os.path.join(directory, file.name + _DRAFT)
        copied = copy.copy_file(os.path.join(backup, file.name), draft, progress)
        if (copied.size, copied.sha256) != (file.size, file.sha256):
            raise StoreUnusable(
                f"{backup}/{file.name} does not match its digest in the manifest: "
                "it was damaged or changed"
            )
