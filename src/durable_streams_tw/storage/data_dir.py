"""Data directory: creation, ownership lock, shared lock of readers, write probe."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import tempfile
from collections.abc import Iterator, Set
from contextlib import contextmanager, suppress
from time import sleep
from typing import Final

from twisted.logger import Logger

from durable_streams_tw.storage.errors import StoreUnusable, store_unusable
from durable_streams_tw.storage.files import DATA_FILE, DRAFT, LOCK_FILE, OWNER_FILE, open_file

_OWN_FILES: Final = frozenset((OWNER_FILE, LOCK_FILE, DATA_FILE + DRAFT, "lost+found"))

# Attempts to get the lock while other processes check it, and the pause between two (seconds).
_ATTEMPTS: Final = 100
_PAUSE: Final = 0.01

# One page, as the smallest commit writes; more than file systems keep inside an inode.
_PROBE: Final = bytes(range(256)) * 16


class DataDirLock:
    """Exclusive lock of a data directory by one store of one process.

    Creates the directory if it is missing. A directory without a store may contain files with the
    names ``expected`` only. Raises `StoreUnusable` if the directory is locked or cannot be used.
    """

    _log = Logger()

    def __init__(self, directory: str, expected: Set[str] = frozenset()) -> None:
        self._path = os.path.join(directory, OWNER_FILE)
        with store_unusable(f"the data directory {directory} cannot be used"):
            os.makedirs(directory, mode=0o700, exist_ok=True)
            _refuse_other_files(directory, expected)
            _restrict_writers(directory)
            descriptor = open_file(self._path, os.O_RDWR | os.O_CREAT)
            try:
                _lock(directory, descriptor)
            except BaseException:
                os.close(descriptor)
                raise
        self._descriptor = descriptor

    def remove_file(self) -> None:
        """Remove the lock file, and keep the lock until `release`."""
        with suppress(FileNotFoundError):
            os.unlink(self._path)

    def release(self) -> None:
        """Release the lock. Ignore errors: close frees the descriptor even after an I/O error."""
        with suppress(OSError):
            os.close(self._descriptor)


@contextmanager
def shared_hold(directory: str) -> Iterator[None]:
    """Keep the data file of a directory from being replaced while it is read.

    Another process may own the directory. Raises `StoreUnusable` if the store is being compacted.
    """
    with _directory_lock(directory, fcntl.LOCK_SH, "is being compacted: try again"):
        yield


@contextmanager
def exclude_readers(directory: str) -> Iterator[None]:
    """Exclude readers while the owner of a directory replaces its data file.

    LMDB's lock file tells processes the last commit, so processes with two data files must never
    share one. Raises `StoreUnusable` if a process is reading the store.
    """
    with _directory_lock(
        directory, fcntl.LOCK_EX, "is being read by a backup, a check or a worker: try again"
    ):
        yield


@contextmanager
def _directory_lock(directory: str, kind: int, refusal: str) -> Iterator[None]:
    with store_unusable(f"{directory} cannot be used"):
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with store_unusable(f"{directory} cannot be locked"):
            try:
                fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
            except BlockingIOError:
                raise StoreUnusable(f"the store in {directory} {refusal}") from None
        yield
    finally:
        os.close(descriptor)


def owner(directory: str) -> int | None:
    """Return the id of the process that owns a directory, 0 if unknown, None if not owned."""
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
    """Return whether an owner has locked the lock file. Raises `OSError`.

    The check takes a shared lock for a moment, so several processes may check at once;
    `DataDirLock` retries when it collides with one.
    """
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    fcntl.flock(descriptor, fcntl.LOCK_UN)
    return False


def _refuse_other_files(directory: str, expected: Set[str]) -> None:
    content = set(os.listdir(directory))
    if DATA_FILE not in content and content - _OWN_FILES - expected:
        raise StoreUnusable(
            f"the data directory {directory} has files that do not belong to this server: "
            "use an empty directory"
        )


def _restrict_writers(directory: str) -> None:
    """Revoke other users' write permission if the directory is ours; warn if it is not."""
    found = os.stat(directory)
    if not found.st_mode & stat.S_IWOTH:
        return
    if found.st_uid == os.geteuid():
        os.chmod(directory, stat.S_IMODE(found.st_mode) & ~stat.S_IWOTH)
        DataDirLock._log.warn(
            "All users could write to {directory}: revoked with chmod o-w", directory=directory
        )
    else:
        DataDirLock._log.warn(
            "All users can write to the data directory {directory}: run chmod o-w on it",
            directory=directory,
        )


def _locked(descriptor: int) -> bool:
    """Lock the lock file. Return False if another process owns it. Raises `OSError`."""
    for _ in range(_ATTEMPTS):
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if _owned(descriptor):
                return False
            # Another process is checking the owner, which takes microseconds.
            sleep(_PAUSE)
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
        # On a full disk, go on without the process id: the lock does not depend on it.
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
