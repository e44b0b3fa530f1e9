"""File with the keyring of a server, or of several servers that share its keys."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from twisted.internet.defer import Deferred
from twisted.logger import Logger

from durable_streams_tw.concurrency import in_daemon_thread
from durable_streams_tw.protocol.errors import Refusal
from durable_streams_tw.storage.errors import StoreUnusable, store_unusable

_log: Final = Logger()


class KeyFile:
    """Keyring in a file, as `api.KeyringStorage` describes it.

    A ``shared`` file keeps its mode, owner and group: its group may be that of several servers. It
    may be the target of a symbolic link. Others become private. A file that is not ``writable``
    must exist, and is never changed. ``reactor`` is needed for `read` only.
    """

    def __init__(
        self, path: Path, *, shared: bool = False, writable: bool = True, reactor: Any = None
    ) -> None:
        self.place = str(path)
        self._path = path
        self._shared = shared
        self._writable = writable
        self._reactor = reactor

    def update(self, change: Callable[[bytes | None], bytes | None]) -> None:
        """Store what ``change`` returns for the stored bytes, unless it returns None."""
        content = self._checked()
        if content is None and not self._writable:
            raise StoreUnusable(
                f"{self.place} does not exist: create it with "
                f"`durable-streams-server webhook-keys {self.place}`"
            )
        changed = change(content)
        if changed is not None and self._writable:
            _replace(self._path, changed, self._shared)

    def read(self) -> Deferred[bytes | Refusal | None]:
        """Return the stored bytes, from a thread. Fails with `StoreUnusable`."""
        return in_daemon_thread(self._reactor, self._read)

    def _checked(self) -> bytes | None:
        with (
            store_unusable(f"could not read {self._path}"),
            suppress(FileNotFoundError),
            open(self._path, "rb") as file,
        ):
            _restrict(self._path, file.fileno(), self._shared)
            return file.read()
        return None

    def _read(self) -> bytes:
        with store_unusable(f"could not read {self._path}"), open(self._path, "rb") as file:
            _refuse_public(self._path, os.fstat(file.fileno()), self._shared)
            return file.read()


def _replace(path: Path, content: bytes, shared: bool) -> None:
    """Replace a file atomically. Raises `StoreUnusable`.

    A new file is readable only by its owner. A ``shared`` file keeps its mode, owner and group,
    any other its owner and group if this process is allowed to set them.
    """
    # At module level, this import would make LMDB a requirement of in-memory stores.
    from durable_streams_tw.storage.files import persist

    # A symbolic link stays; its target, which may be in another directory, is replaced.
    target = Path(os.path.realpath(path)) if shared else path
    draft = target.with_name(target.name + ".new")
    with store_unusable(f"could not write {path}"):
        draft.unlink(missing_ok=True)
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with open(descriptor, "wb") as file:
            # Written by root, the file would be unreadable for the server.
            with suppress(FileNotFoundError if shared else OSError):
                status = target.stat()
                if shared:
                    _keep_access(descriptor, path, status)
                else:
                    os.fchown(descriptor, status.st_uid, status.st_gid)
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(draft, target)
        persist(str(target.parent))


def _keep_access(descriptor: int, path: Path, status: os.stat_result) -> None:
    """Give mode, owner and group of a file to its successor. Raises `StoreUnusable`."""
    failed = f"could not keep owner and group of {path}, run this as its owner"
    if status.st_uid == os.geteuid():
        failed = (
            f"could not keep group {status.st_gid} of {path}, run this as root or add the owner of "
            "the file to that group"
        )
    with store_unusable(failed):
        os.fchown(descriptor, status.st_uid, status.st_gid)
        os.fchmod(descriptor, stat.S_IMODE(status.st_mode))


def _refuse_public(path: Path, status: os.stat_result, shared: bool) -> None:
    """Raise `StoreUnusable` if every user of the system has access to a key file."""
    mode = stat.S_IMODE(status.st_mode)
    if mode & 0o007:
        group = f", or chmod 640 {path} if servers of its group share it" if shared else ""
        raise StoreUnusable(
            f"{path} holds secrets, and every user can read or change it (mode {mode:04o}): "
            f"run chmod 600 {path}{group}"
        )


def _restrict(path: Path, descriptor: int, shared: bool) -> None:
    """Remove the group's access to a key file that is not ``shared``, if this process may do so.

    Group access causes only a warning, because Kubernetes gives the ``fsGroup`` access to all
    files of a volume at each mount, and OpenShift runs each pod as another user of that group.
    Raises `StoreUnusable` if every user of the system has access.
    """
    status = os.fstat(descriptor)
    _refuse_public(path, status, shared)
    mode = stat.S_IMODE(status.st_mode)
    if mode & 0o070 and not shared:
        try:
            os.fchmod(descriptor, mode & 0o700)
        except OSError as error:
            _log.warn(
                "{path} holds secrets, and its group can read or change it (mode {mode}); it "
                "could not be changed to 0600: {reason}",
                path=str(path),
                mode=f"{mode:04o}",
                reason=error.strerror,
            )
        else:
            _log.warn(
                "{path} holds secrets, and its group could read or change it (mode {mode}): "
                "the mode is 0600 now",
                path=str(path),
                mode=f"{mode:04o}",
            )
    elif status.st_uid not in (os.geteuid(), 0):
        _log.warn(
            "{path} holds secrets and belongs to another user (uid {owner})",
            path=str(path),
            owner=status.st_uid,
        )
