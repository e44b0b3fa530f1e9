"""Opening the files of a data directory, and flushing their names to the disk."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterable
from contextlib import suppress
from typing import Final

from durable_streams_tw.storage.errors import StoreUnusable

DATA_FILE: Final = "data.mdb"
"""LMDB's data file."""

LOCK_FILE: Final = "lock.mdb"
"""LMDB's table of readers."""

SEGMENT_FILES: Final = ("journal.a", "journal.b")
"""The two segments of the write-ahead log."""

OWNER_FILE: Final = "owner.lock"
"""File whose lock the process that owns the directory holds."""

DRAFT: Final = ".new"
"""Ends the name of a file that is being made. It gets its own when it is whole and on the disk."""

_OTHERS_WRITE: Final = stat.S_IWOTH


def open_file(path: str, flags: int) -> int:
    """Open a file of a data directory, or create it, and return its descriptor.

    A symbolic link is never followed: it may have been put there to have another file emptied or
    changed. In a directory that other users control, a file that belongs to them, or has a second
    name, is refused too. Raises `OSError` and `StoreUnusable`.
    """
    # Without O_NONBLOCK, opening a named pipe would wait for its other end.
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
    """Flush the names in a directory to the disk, its own name, and the names of its parents.

    Any of the parents may be as new as the directory. Raises `StoreUnusable`.
    """
    try:
        sync_directory(directory)
        device, path = os.stat(directory).st_dev, os.path.realpath(directory)
        while os.path.dirname(path) != path:
            path = os.path.dirname(path)
            if os.stat(path).st_dev != device:
                # The name of a mount point is not on this file system.
                break
            # A parent may be one that we may pass through but not read.
            with suppress(PermissionError):
                sync_directory(path)
    except OSError as error:
        raise StoreUnusable(
            f"the data directory {directory} cannot be used: {error.strerror}"
        ) from None


def sync_directory(directory: str) -> None:
    """Flush the names in a directory to the disk. Raises `OSError`."""
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
