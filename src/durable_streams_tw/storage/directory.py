"""A data directory: made, claimed, and known to be ours, before anything is opened in it."""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterator, Set
from contextlib import contextmanager, suppress
from typing import Final

from durable_streams_tw.storage.interfaces import StoreUnusable
from durable_streams_tw.storage.lmdb_keyspace import DATA_FILE, LOCK_FILE

CLAIM_FILE: Final = "owner.lock"

_HARMLESS: Final = frozenset((CLAIM_FILE, LOCK_FILE, "lost+found"))


class Claim:
    """An exclusive hold on a directory; one process, and one store in it, owns it.

    The directory is made if it is missing. Without a store in it, it may hold files of the
    names ``expected``, and no others. Raises `StoreUnusable` where it cannot be had.
    """

    def __init__(self, directory: str, expected: Set[str] = frozenset()) -> None:
        self._path = os.path.join(directory, CLAIM_FILE)
        try:
            os.makedirs(directory, mode=0o700, exist_ok=True)
            _refuse_foreign(directory, expected)
            descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
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

    def erase(self) -> None:
        """Leave no trace of the hold, which lasts until it is released."""
        with suppress(FileNotFoundError):
            os.unlink(self._path)

    def release(self) -> None:
        """Let go of the directory."""
        os.close(self._descriptor)


@contextmanager
def visit(directory: str) -> Iterator[None]:
    """A hold on a directory that somebody else may own, of whoever only looks.

    While it lasts nobody exchanges the store's file for another. Raises `StoreUnusable` where
    that is going on.
    """
    with _held(directory, fcntl.LOCK_SH, "is being exchanged for a compacted one: try again"):
        yield


@contextmanager
def exchange(directory: str) -> Iterator[None]:
    """The hold of its owner, who exchanges the store's file: nobody looks at it meanwhile.

    LMDB's lock file tells processes which commit is the last, so those of two files must never
    share one. Raises `StoreUnusable` where somebody looks.
    """
    with _held(directory, fcntl.LOCK_EX, "is being read (a backup, or a check): try again later"):
        yield


@contextmanager
def _held(directory: str, kind: int, otherwise: str) -> Iterator[None]:
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
    """The process that owns a directory at this moment; None where nobody does, 0 where it is
    not known who."""
    try:
        descriptor = os.open(os.path.join(directory, CLAIM_FILE), os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        # Shared: several may ask at once. Whoever wants to own it in this moment is refused.
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        number = os.read(descriptor, 32).strip()
        return int(number) if number.isdigit() else 0
    except OSError:
        return 0
    else:
        return None
    finally:
        os.close(descriptor)


def persist(directory: str) -> None:
    """Flush the names in a directory to the disk, its own name, and the names of its parents.

    Any of the parents may be as new as the directory. Raises `StoreUnusable`.
    """
    try:
        _sync(directory)
        device, path = os.stat(directory).st_dev, os.path.realpath(directory)
        while os.path.dirname(path) != path:
            path = os.path.dirname(path)
            if os.stat(path).st_dev != device:
                # The name of a mount point is not on this file system.
                break
            # A parent may be one that we may pass through but not read.
            with suppress(PermissionError):
                _sync(path)
    except OSError as error:
        raise StoreUnusable(
            f"the data directory {directory} cannot be used: {error.strerror}"
        ) from None


def _sync(directory: str) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _refuse_foreign(directory: str, expected: Set[str]) -> None:
    content = set(os.listdir(directory))
    if DATA_FILE not in content and content - _HARMLESS - expected:
        raise StoreUnusable(
            f"the data directory {directory} has files that are not this server's: "
            "give it an empty directory"
        )


def _lock(directory: str, descriptor: int) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        owner = os.read(descriptor, 32).decode("ascii", "replace").strip() or "unknown"
        raise StoreUnusable(
            f"the data directory {directory} is in use by another server (process {owner})"
        ) from None
    os.ftruncate(descriptor, 0)
    try:
        os.pwrite(descriptor, b"%d\n" % os.getpid(), 0)
    except OSError as error:
        # A full disk: the hold is what counts, the number is for people.
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
