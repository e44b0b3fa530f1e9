"""Files of a data directory: names, safe opening, flushing of directory entries."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterable
from contextlib import suppress
from typing import Final

from durable_streams_tw.storage.errors import StoreUnusable, store_unusable

DATA_FILE: Final = "data.mdb"
"""LMDB's data file."""

LOCK_FILE: Final = "lock.mdb"
"""LMDB's table of readers."""

SEGMENT_FILES: Final = ("journal.a", "journal.b")
"""The two segments of the write-ahead log."""

OWNER_FILE: Final = "owner.lock"
"""File whose lock the process that owns the directory holds."""

DRAFT: Final = ".new"
"""Suffix of an incomplete file. The file is renamed when it is complete and flushed."""

_OTHERS_WRITE: Final = stat.S_IWOTH


def open_file(path: str, flags: int) -> int:
    """Open a file of a data directory, or create it, and return its descriptor.

    Symbolic links are refused: another user may have planted one to have a different file changed.
    In a directory that other users can write to, files that belong to them and hard links are
    refused too. Raises `OSError` and `StoreUnusable`.
    """
    # Without O_NONBLOCK, opening a named pipe would block until its other end is opened.
    flags |= os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        descriptor = os.open(path, flags, 0o600)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise StoreUnusable(f"{path} is a symbolic link: remove it") from None
        raise
    try:
        _refuse_planted(path, os.fstat(descriptor))
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _refuse_planted(path: str, found: os.stat_result) -> None:
    if not stat.S_ISREG(found.st_mode):
        raise StoreUnusable(f"{path} is not a regular file: remove it")
    directory = os.stat(os.path.dirname(path) or ".")
    user = os.geteuid()
    if not (directory.st_mode & _OTHERS_WRITE or directory.st_uid not in (user, 0)):
        return
    if found.st_uid not in (user, 0, directory.st_uid):
        raise StoreUnusable(
            f"{path} belongs to user {found.st_uid}, and other users can write to its directory: "
            "remove it"
        )
    if found.st_nlink > 1:
        raise StoreUnusable(
            f"{path} is a hard link, and other users can write to its directory: remove it"
        )


def persist(directory: str) -> None:
    """Flush the entries of a directory and of all its parents, which may be as new as itself.

    Raises `StoreUnusable`.
    """
    with store_unusable(f"the data directory {directory} cannot be used"):
        sync_directory(directory)
        device, path = os.stat(directory).st_dev, os.path.realpath(directory)
        while os.path.dirname(path) != path:
            path = os.path.dirname(path)
            if os.stat(path).st_dev != device:
                # The entry of a mount point is on another file system.
                break
            # A parent may be searchable but not readable.
            with suppress(PermissionError):
                sync_directory(path)


def sync_directory(directory: str) -> None:
    """Flush the entries of a directory. Raises `OSError`."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_files(directory: str, names: Iterable[str]) -> None:
    """Remove files of a directory that exist. Raises `OSError`."""
    for name in names:
        with suppress(FileNotFoundError):
            os.unlink(os.path.join(directory, name))
