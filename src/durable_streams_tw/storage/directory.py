"""A data directory: made, claimed, and known to be ours, before anything is opened in it."""

from __future__ import annotations

import fcntl
import os

from durable_streams_tw.storage.interfaces import StoreUnusable

_CLAIM = "owner.lock"
_DATABASE = "data.mdb"
_HARMLESS = frozenset((_CLAIM, "lock.mdb", "lost+found"))


class Claim:
    """An exclusive hold on a directory; one process, and one store in it, owns it.

    Raises `StoreUnusable` where the directory cannot be had.
    """

    def __init__(self, directory: str) -> None:
        try:
            os.makedirs(directory, mode=0o700, exist_ok=True)
            descriptor = os.open(
                os.path.join(directory, _CLAIM), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600
            )
        except OSError as error:
            raise StoreUnusable(
                f"the data directory {directory} cannot be used: {error.strerror}"
            ) from None
        try:
            self._claim(directory, descriptor)
        except BaseException:
            os.close(descriptor)
            raise
        self._descriptor = descriptor

    @staticmethod
    def _claim(directory: str, descriptor: int) -> None:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = os.read(descriptor, 32).decode("ascii", "replace").strip() or "unknown"
            raise StoreUnusable(
                f"the data directory {directory} is in use by another server (process {owner})"
            ) from None
        content = set(os.listdir(directory))
        if _DATABASE not in content and content - _HARMLESS:
            raise StoreUnusable(
                f"the data directory {directory} has files that are not this server's: "
                "give it an empty directory"
            )
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, b"%d\n" % os.getpid(), 0)

    def release(self) -> None:
        """Let go of the directory."""
        os.close(self._descriptor)
