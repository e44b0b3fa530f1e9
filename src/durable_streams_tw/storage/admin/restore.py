"""Making a data directory of a backup, and a store's file smaller in its place.

Both write beside what they are to become, prove it sound, and rename it when all of it is on
the disk, the store's file last: what was interrupted is no store, and what was there before
is there still.
"""

from __future__ import annotations

import os
from contextlib import suppress
from typing import Final

from msgspec import Struct

from durable_streams_tw.storage.admin.backup import Manifest, read_manifest
from durable_streams_tw.storage.admin.copy import (
    Progress,
    copy_file,
    copy_store,
    need_room,
    prove,
    refuse_flawed,
)
from durable_streams_tw.storage.admin.copy_completion import part
from durable_streams_tw.storage.admin.data_dir import CLAIM_FILE, DataDirLock, exchange
from durable_streams_tw.storage.admin.inspect import Inspection, give_to_owner
from durable_streams_tw.storage.api import StoreUnusable
from durable_streams_tw.storage.engine.lmdb import DATA_FILE, LOCK_FILE
from durable_streams_tw.storage.files import persist

_RESTORING: Final = ".restoring"
_COMPACTING: Final = DATA_FILE + ".compacting"


def restore(
    backup: str,
    directory: str,
    now: int,
    progress: Progress,
    *,
    even_flawed: bool = False,
    deep: bool = False,
) -> Manifest:
    """Make a data directory of a backup. ``now`` is in milliseconds since 1970.

    The directory may be there, but not a store in it, nor files of others. Raises
    `StoreUnusable`, and `Flawed` where what the backup holds is not sound, unless
    ``even_flawed``.
    """
    manifest = read_manifest(backup)
    if os.path.exists(os.path.join(directory, DATA_FILE)):
        raise StoreUnusable(f"{directory} has a store already: a restore overwrites nothing")
    claim = DataDirLock(directory, _left_behind(directory, manifest))
    try:
        try:
            _fill(manifest, backup, directory, progress)
            draft = os.path.join(directory, DATA_FILE + _RESTORING)
            with Inspection(draft, alone=True) as copied:
                prove(copied, backup, progress, deep=deep, tolerant=even_flawed)
            part(draft, now)
            for file in manifest.files:
                give_to_owner(os.path.join(directory, file.name + _RESTORING), directory)
        except BaseException:
            _drop(directory, [file.name + _RESTORING for file in manifest.files])
            raise
        _drop(directory, [LOCK_FILE])
        # The store's file last: without it there is no store. A power cut may reorder renames that
        # are not flushed: the store without its keys, or keys that nothing tells from a stranger's.
        for file in sorted(manifest.files, key=lambda file: file.name == DATA_FILE):
            persist(directory)
            path = os.path.join(directory, file.name)
            os.replace(path + _RESTORING, path)
        persist(directory)
        give_to_owner(os.path.join(directory, CLAIM_FILE), directory)
    except OSError as error:
        raise StoreUnusable(f"{directory} cannot be used: {error.strerror}") from None
    finally:
        claim.release()
    return manifest


def _left_behind(directory: str, manifest: Manifest) -> frozenset[str]:
    """What an interrupted restore may have left in a directory."""
    names = {file.name for file in manifest.files}
    drafts = {name + _RESTORING for name in names}
    if os.path.exists(os.path.join(directory, DATA_FILE + _RESTORING)):
        return frozenset(drafts | names)
    return frozenset(drafts)


def _fill(manifest: Manifest, backup: str, directory: str, progress: Progress) -> None:
    _drop(directory, [file.name + _RESTORING for file in manifest.files])
    need_room(directory, sum(file.size for file in manifest.files))
    for file in manifest.files:
        draft = os.path.join(directory, file.name + _RESTORING)
        copied = copy_file(os.path.join(backup, file.name), draft, progress)
        if (copied.size, copied.sha256) != (file.size, file.sha256):
            raise StoreUnusable(
                f"{backup}/{file.name} is not what the backup had when it was made: "
                "it was damaged, or changed"
            )


class Compacted(Struct, frozen=True):
    """Sizes of a store's file, in bytes."""

    before: int
    after: int


def compact(
    directory: str,
    progress: Progress,
    *,
    even_flawed: bool = False,
) -> Compacted:
    """Write the store of a directory that no server uses anew, without free pages.

    Raises `StoreUnusable`, and `Flawed` where the store is not sound, unless ``even_flawed``:
    then it is as it was.
    """
    data = os.path.join(directory, DATA_FILE)
    if not os.path.exists(data):
        raise StoreUnusable(f"there is no store in {directory}")
    if os.path.islink(data):
        raise StoreUnusable(f"{data} leads elsewhere: it cannot be exchanged for another")
    claim = DataDirLock(directory)
    give_to_owner(os.path.join(directory, CLAIM_FILE), data)
    draft = os.path.join(directory, _COMPACTING)
    try:
        with exchange(directory):
            _drop(directory, [_COMPACTING])
            with Inspection(data, alone=True, journal=directory, tolerant=even_flawed) as source:
                refuse_flawed(source, directory, even_flawed)
                figures = source.figures()
                need_room(directory, figures.used)
                copied = copy_store(source, draft, progress)
            with Inspection(draft, alone=True) as compacted:
                prove(compacted, directory, progress, tolerant=even_flawed)
            give_to_owner(draft, data)
            # What LMDB knows of the old file must not be held for the new one's.
            _drop(directory, [LOCK_FILE])
            os.replace(draft, data)
            persist(directory)
    except OSError as error:
        raise StoreUnusable(f"{directory} cannot be used: {error.strerror}") from None
    finally:
        _drop(directory, [_COMPACTING])
        claim.release()
    return Compacted(figures.file, copied.size)


def _drop(directory: str, names: list[str]) -> None:
    for name in names:
        with suppress(FileNotFoundError):
            os.unlink(os.path.join(directory, name))
