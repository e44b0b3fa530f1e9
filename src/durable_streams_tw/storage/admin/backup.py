"""Backups: a directory with a compacted, verified copy of a store and its other files.

A backup is made while the server runs. It contains the store as of one commit, with every write
that was acknowledged before the backup began.

=================  ===================================================================
file               content
=================  ===================================================================
``backup.json``    `Manifest`
``data.mdb``       store
others             copies from the data directory, such as ``keys.json``
=================  ===================================================================

The files are written in a directory ``NAME.partial-RANDOM`` beside the destination, which no other
user can enter. It is renamed when everything is flushed, so an interrupted backup never looks
complete.
"""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Final

import msgspec
from msgspec import Struct

from durable_streams_tw import __version__
from durable_streams_tw.storage.admin import copy
from durable_streams_tw.storage.admin.inspect import Inspection
from durable_streams_tw.storage.admin.verify import refuse_flawed_wal, verify
from durable_streams_tw.storage.data_dir import DataDirLock
from durable_streams_tw.storage.engine import codec
from durable_streams_tw.storage.engine.format_version import require_meta
from durable_streams_tw.storage.errors import StoreUnusable, store_unusable
from durable_streams_tw.storage.files import DATA_FILE, OWNER_FILE, persist

MANIFEST_FILE: Final = "backup.json"
KIND: Final = "durable-streams backup"

_FORMAT: Final = 1
_PARTIAL: Final = ".partial"


class Manifest(Struct, frozen=True, kw_only=True):
    """Description of a backup.

    ``began_at`` is in ms since the Unix epoch: writes acknowledged before are in the backup.
    ``store_format`` is the format number of the store, ``commit`` the number of its last commit,
    ``flaws`` the number of flaws that the store had.
    """

    kind: str
    format: int
    version: str
    began_at: int
    store_format: int
    commit: int
    files: list[copy.CopiedFile]
    flaws: int = 0


def back_up(
    directory: str,
    destination: str,
    others: Sequence[str],
    now: Callable[[], int],
    progress: copy.Progress,
    *,
    even_flawed: bool = False,
    deep: bool = False,
) -> Manifest:
    """Back up a data directory, which a server may be using, and return the manifest.

    ``destination`` must not exist. ``others`` are names of other files to copy, if they exist.
    ``now`` returns ms since the Unix epoch. Raises `StoreUnusable`, and `FlawedStore` if the store
    fails its check, unless ``even_flawed``.
    """
    destination = destination.rstrip("/") or "/"
    _refuse_used(directory, destination)
    _discard_partial(destination, others)
    draft = _make_draft(destination)
    lock = DataDirLock(draft)
    try:
        began_at = now()
        with Inspection(directory, tolerant=even_flawed) as source:
            refuse_flawed_wal(source, directory, even_flawed)
            usage = source.usage()
            copy.require_free_space(draft, usage.used)
            files = [copy.copy_store(source, os.path.join(draft, DATA_FILE), progress)]
        for name in others:
            original = os.path.join(directory, name)
            if os.path.exists(original):
                files.append(copy.copy_file(original, os.path.join(draft, name), progress))
        flaws, meta = _verify_copy(
            os.path.join(draft, DATA_FILE), directory, progress, even_flawed, deep
        )
        manifest = Manifest(
            kind=KIND,
            format=_FORMAT,
            version=__version__,
            began_at=began_at,
            store_format=meta.format,
            commit=usage.commit,
            files=files,
            flaws=flaws,
        )
        with copy.FileWriter(os.path.join(draft, MANIFEST_FILE)) as writer:
            writer.write(msgspec.json.format(msgspec.json.encode(manifest)) + b"\n")
        lock.remove_file()
        persist(draft)
        with store_unusable(f"{destination} cannot be created"):
            os.rename(draft, destination)
            persist(destination)
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise
    finally:
        lock.release()
    return manifest


def read_manifest(backup: str) -> Manifest:
    """Return the manifest of a backup. Raises `StoreUnusable` if the directory is not a backup."""
    path = os.path.join(backup, MANIFEST_FILE)
    try:
        with open(path, "rb") as file:
            manifest = msgspec.json.decode(file.read(), type=Manifest)
    except FileNotFoundError:
        interrupted = _PARTIAL in os.path.basename(backup)
        reason = "it was interrupted" if interrupted else f"it has no {MANIFEST_FILE}"
        raise StoreUnusable(f"{backup} is not a backup: {reason}") from None
    except OSError as error:
        raise StoreUnusable(f"{path} cannot be read: {error.strerror}") from None
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise StoreUnusable(f"{path} is damaged: {error}") from None
    if manifest.kind != KIND:
        raise StoreUnusable(f"{backup} is not a backup of this server")
    if manifest.format > _FORMAT or manifest.store_format > codec.FORMAT:
        raise StoreUnusable(
            f"{backup} was made by version {manifest.version}, which this version "
            f"({__version__}) cannot read"
        )
    names = [file.name for file in manifest.files]
    if DATA_FILE not in names or any(os.path.basename(name) != name for name in names):
        raise StoreUnusable(f"{path} is damaged: its files are {', '.join(names)}")
    return manifest


def _refuse_used(directory: str, destination: str) -> None:
    inside = os.path.realpath(directory)
    if os.path.commonpath((inside, os.path.realpath(destination))) == inside:
        raise StoreUnusable(f"{destination} is inside the data directory: choose another directory")
    if os.path.lexists(destination):
        raise StoreUnusable(f"{destination} already exists: choose another directory")


def _make_draft(destination: str) -> str:
    """Create a draft directory beside the destination. Return its path. Raises `StoreUnusable`."""
    parent, name = os.path.split(os.path.abspath(destination))
    with store_unusable(f"{destination} cannot be created"):
        os.makedirs(parent, exist_ok=True)
        # The name is random: another user could plant a symbolic link of a predictable one.
        return tempfile.mkdtemp(prefix=f"{name}{_PARTIAL}-", dir=parent)


def _discard_partial(destination: str, others: Sequence[str]) -> None:
    """Remove the drafts of this user's interrupted backups to the same destination.

    Keep drafts that a running backup has locked, and those with other files.
    """
    known = frozenset((DATA_FILE, MANIFEST_FILE, *others))
    parent, name = os.path.split(os.path.abspath(destination))
    with suppress(OSError):
        for entry in list(os.scandir(parent)):
            if not entry.name.startswith(f"{name}{_PARTIAL}-") or not _is_own(entry):
                continue
            with suppress(StoreUnusable):
                lock = DataDirLock(entry.path, known)
                try:
                    if set(os.listdir(entry.path)) <= known | {OWNER_FILE}:
                        shutil.rmtree(entry.path)
                finally:
                    lock.release()


def _is_own(entry: os.DirEntry[str]) -> bool:
    """Return whether an entry is a directory of this user that no other user can enter."""
    found = entry.stat(follow_symlinks=False)
    return (
        entry.is_dir(follow_symlinks=False)
        and found.st_uid == os.geteuid()
        and not stat.S_IMODE(found.st_mode) & 0o077
    )


def _verify_copy(
    data: str, where: str, progress: copy.Progress, even_flawed: bool, deep: bool
) -> tuple[int, codec.Meta]:
    """Verify a copied store, and return the number of its flaws and its format record."""
    with Inspection(data, alone=True) as copied:
        flaws = verify(copied, where, progress, deep=deep, tolerant=even_flawed)
        with copied.snapshot() as view:
            return flaws, require_meta(view, where)
