"""A data directory: made, claimed, and known to be ours, before anything is opened in it."""

from __future__ import annotations

import errno
import fcntl
import os
from contextlib import suppress
from typing import Final

from durable_streams_tw.storage.interfaces import StoreUnusable
from durable_streams_tw.storage.lmdb_keyspace import DATA_FILE, LOCK_FILE

CLAIM_FILE: Final = "owner.lock"

_HARMLESS: Final = frozenset((CLAIM_FILE, LOCK_FILE, "lost+found"))


class Claim:
    """An exclusive hold on a directory; one process, and one store in it, owns it.

    The directory is made if it is missing. Raises `StoreUnusable` where it cannot be had.
    """

    def __init__(self, directory: str) -> None:
        try:
            os.makedirs(directory, mode=0o700, exist_ok=True)
            _refuse_foreign(directory)
            descriptor = os.open(
                os.path.join(directory, CLAIM_FILE), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600
            )
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

    def release(self) -> None:
        """Let go of the directory."""
        os.close(self._descriptor)


def persist(directory: str) -> None:
    """Make the names of a directory's files durable, and its own. Raises `StoreUnusable`."""
    try:
        _sync(directory)
        # The parent may be one that we may pass through but not read.
        with suppress(PermissionError):
            _sync(os.path.dirname(os.path.abspath(directory)))
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


def _refuse_foreign(directory: str) -> None:
    content = set(os.listdir(directory))
    if DATA_FILE not in content and content - _HARMLESS:
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
