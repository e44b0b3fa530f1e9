"""A data directory: made, claimed, and known to be ours, before anything is opened in it."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import tempfile
import time
from collections.abc import Iterator, Set
from contextlib import contextmanager, suppress
from typing import Final

from twisted.logger import Logger

from durable_streams_tw.storage.errors import StoreUnusable
from durable_streams_tw.storage.files import DATA_FILE, DRAFT, LOCK_FILE, OWNER_FILE, open_file

_HARMLESS: Final = frozenset((OWNER_FILE, LOCK_FILE, DATA_FILE + DRAFT, "lost+found"))

# How often a claim tries to get the lock while other processes ask who has it, and the pause
# between two attempts (seconds).
_ATTEMPTS: Final = 100
_PAUSE: Final = 0.01

# One page, as the smallest commit writes; more than file systems keep inside an inode.
_PROBE: Final = bytes(range(256)) * 16


class DataDirLock:
    """An exclusive hold on a directory; one process, and one store in it, owns it.

    The directory is made if it is missing. Without a store in it, it may hold files of the
    names ``expected``, and no others. Raises `StoreUnusable` where it cannot be had.
    """

    _log = Logger()

    def __init__(self, directory: str, expected: Set[str] = frozenset()) -> None:
        self._path = os.path.join(directory, OWNER_FILE)
        try:
            os.makedirs(directory, mode=0o700, exist_ok=True)
            _refuse_foreign(directory, expected)
            _refuse_others(directory)
            descriptor = open_file(self._path, os.O_RDWR | os.O_CREAT)
            try:
                _lock(directory, descriptor)
            except BaseException:
                os.close(descriptor)
                raise
        except OSError as error:
            raise StoreUnusable(
                f"the data directory {directory} cannot be used: {error.strerror}"
            ) from None
        self._descriptor = descriptor

    def remove_file(self) -> None:
        """Leave no trace of the hold, which lasts until it is released."""
        with suppress(FileNotFoundError):
            os.unlink(self._path)

    def release(self) -> None:
        """Let go of the directory. The descriptor is gone even if the disk reports an error."""
        with suppress(OSError):
            os.close(self._descriptor)


@contextmanager
def shared_hold(directory: str) -> Iterator[None]:
    """A hold on a directory that somebody else may own, of whoever only looks.

    While it lasts nobody exchanges the store's file for another. Raises `StoreUnusable` where
    that is going on.
    """
    with _directory_lock(directory, fcntl.LOCK_SH, "is being compacted: try again"):
        yield


@contextmanager
def exclude_readers(directory: str) -> Iterator[None]:
    """The hold of its owner, who exchanges the store's file: nobody looks at it meanwhile.

    LMDB's lock file tells processes which commit is the last, so those of two files must never
    share one. Raises `StoreUnusable` where somebody looks.
    """
    with _directory_lock(
        directory, fcntl.LOCK_EX, "is being read by a backup or a check: try again later"
    ):
        yield


@contextmanager
def _directory_lock(directory: str, kind: int, otherwise: str) -> Iterator[None]:
    try:
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise StoreUnusable(f"{directory} cannot be used: {error.strerror}") from None
    try:
        try:
            fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StoreUnusable(f"the store in {directory} {otherwise}") from None
        except OSError as error:
            raise StoreUnusable(f"{directory} cannot be locked: {error.strerror}") from None
        yield
    finally:
        os.close(descriptor)


def owner(directory: str) -> int | None:
    """Return the number of the process that owns a directory at this moment, 0 if the number is
    not known, None if there is no such process."""
    try:
        descriptor = open_file(os.path.join(directory, OWNER_FILE), os.O_RDONLY)
    except (OSError, StoreUnusable):
        return None
    try:
        if not _owned(descriptor):
            return None
        number = os.read(descriptor, 32).strip()
        return int(number) if number.isdigit() else 0
    except OSError:
        return 0
    finally:
        os.close(descriptor)


def _owned(descriptor: int) -> bool:
    """Return whether a claim file is locked by an owner. Raises `OSError`.

    The lock that finds out is shared, so that several processes may ask at once. A `DataDirLock`
    that meets it tries again.
    """
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    fcntl.flock(descriptor, fcntl.LOCK_UN)
    return False


def _refuse_foreign(directory: str, expected: Set[str]) -> None:
    content = set(os.listdir(directory))
    if DATA_FILE not in content and content - _HARMLESS - expected:
        raise StoreUnusable(
            f"the data directory {directory} has files that do not belong to this server: "
            "use an empty directory"
        )


def _refuse_others(directory: str) -> None:
    """Take the right to write from all users, if the directory is ours; warn if it is not."""
    found = os.stat(directory)
    if not found.st_mode & stat.S_IWOTH:
        return
    if found.st_uid == os.geteuid():
        os.chmod(directory, stat.S_IMODE(found.st_mode) & ~stat.S_IWOTH)
        DataDirLock._log.warn(
            "all users could write to {directory}: now they cannot", directory=directory
        )
    else:
        DataDirLock._log.warn(
            "all users can write to the data directory {directory}: run chmod o-w on it",
            directory=directory,
        )


def _locked(descriptor: int) -> bool:
    """Lock a claim file. Return False if another process owns it. Raises `OSError`."""
    for _ in range(_ATTEMPTS):
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if _owned(descriptor):
                return False
            # Another process asks at this moment who the owner is: that takes microseconds.
            time.sleep(_PAUSE)
        else:
            return True
    return False


def _lock(directory: str, descriptor: int) -> None:
    if not _locked(descriptor):
        owner = os.read(descriptor, 32).decode("ascii", "replace").strip() or "unknown"
        raise StoreUnusable(
            f"the data directory {directory} is in use by another server (process {owner})"
        )
    os.ftruncate(descriptor, 0)
    try:
        os.pwrite(descriptor, b"%d\n" % os.getpid(), 0)
    except OSError as error:
        # A full disk: the hold is what counts, the number is for people.
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise


def write_obstacle(directory: str) -> str | None:
    """Return why a directory cannot be written, None if it can.

    Writes and flushes a file without a name, which shows a full, read-only or missing disk.
    Blocks: not for the reactor thread.
    """
    try:
        with tempfile.TemporaryFile(dir=directory, prefix=".probe-", buffering=0) as file:
            file.write(_PROBE)
            os.fsync(file.fileno())
    except OSError as error:
        return f"the data directory cannot be written: {error.strerror}"
    return None
