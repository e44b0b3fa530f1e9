"""What ``doctor`` looks at, and what it makes of it.

Each examination is a function of figures, so that every result can be tried without a machine
that deserves it; `run_checks` gets the figures.
"""

from __future__ import annotations

import os
import resource
import stat
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from importlib import import_module
from typing import Final, Literal

from msgspec import Struct

from durable_streams_tw.http.settings import Settings
from durable_streams_tw.service.configuration import Configuration
from durable_streams_tw.storage import limits
from durable_streams_tw.storage.data_dir import owner
from durable_streams_tw.storage.engine.limits import MAP_SIZE
from durable_streams_tw.storage.files import DATA_FILE
from durable_streams_tw.subscriptions.keyring import KEYS_FILE

_FLUSHES: Final = 20
# Files that are not connections: the store, logs, the threads' and the reactor's own.
_OWN_FILES: Final = 64
_FEW_FILES: Final = 256
# What many proxies wait for an answer when nobody tells them otherwise (seconds).
_PROXY_PATIENCE: Final = 60.0
_NETWORK: Final = ("nfs", "cifs", "smb", "9p", "fuse", "ceph", "gluster", "afs")
# Seconds of a flush.
_SLOW: Final = 0.02
_TOO_SLOW: Final = 0.5
_TOO_FAST: Final = 0.00001
_LITTLE_ROOM: Final = 1 << 30


class CheckResult(Struct, frozen=True):
    """What came of one examination. ``grade`` is ``bad`` where the server would not start or
    not do what it promises, ``warning`` where it might surprise."""

    name: str
    grade: Literal["good", "warning", "bad"]
    sentence: str


def run_checks(configuration: Configuration) -> Iterator[CheckResult]:
    """Look at this machine as a server with these settings would find it."""
    settings = configuration.settings
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    yield open_files(files, settings.max_connections)
    space, _ = resource.getrlimit(resource.RLIMIT_AS)
    yield protocols(_missing_packages())
    yield from timeouts(settings)
    yield bodies(settings)
    directory: str | None = configuration["data-dir"]
    if directory is None:
        yield CheckResult("data directory", "warning", "there is none: nothing is kept")
        return
    yield address_space(space)
    place = _nearest(directory)
    if not os.access(place, os.W_OK | os.X_OK | os.R_OK) or not os.path.isdir(place):
        yield CheckResult("data directory", "bad", f"{place} cannot be written to")
        return
    yield data_directory(directory, place, owner(directory))
    if os.path.exists(keys := os.path.join(directory, KEYS_FILE)):
        yield key_file(keys, stat.S_IMODE(os.stat(keys).st_mode))
    yield file_system(_kind_of(place))
    disk = os.statvfs(place)
    size, free = disk.f_blocks * disk.f_frsize, disk.f_bavail * disk.f_frsize
    yield room(size, free, settings.max_stored)
    try:
        yield flushing(_flush_times(place))
    except OSError as error:
        yield CheckResult("flushing", "bad", f"{place} cannot be written to: {error.strerror}")


def open_files(limit: int, connections: int) -> CheckResult:
    """The limit of open files, beside the bound of connections (0: any number)."""
    if limit == resource.RLIM_INFINITY or 0 < connections <= limit - _OWN_FILES:
        return CheckResult("open files", "good", f"{connections:,} connections fit")
    bound = f"max-connections is {connections:,}" if connections else "connections have no bound"
    sentence = f"{limit:,} may be open, and {bound}: raise ulimit -n (LimitNOFILE=) or lower it"
    return CheckResult("open files", "bad" if limit < _FEW_FILES else "warning", sentence)


def address_space(limit: int) -> CheckResult:
    """The limit of virtual memory, beside the map's size (bytes)."""
    if limit == resource.RLIM_INFINITY or limit > 2 * MAP_SIZE:
        return CheckResult("address space", "good", "it has no bound that matters")
    grade: Literal["warning", "bad"] = "bad" if limit < 1 << 31 else "warning"
    sentence = f"ulimit -v leaves {limit >> 30:,} GiB: the store cannot grow beyond that"
    return CheckResult("address space", grade, sentence)


def protocols(missing: Sequence[str]) -> CheckResult:
    """Judge by the packages that cannot be imported whether TLS and HTTP/2 are available."""
    if not missing:
        sentence = "available: clients of an ssl: endpoint may choose HTTP/2"
        return CheckResult("TLS and HTTP/2", "good", sentence)
    names = ", ".join(missing)
    sentence = f"not available, since {names} cannot be imported: install the server again with pip"
    return CheckResult("TLS and HTTP/2", "bad", sentence)


def _missing_packages() -> list[str]:
    missing = []
    for name in ("OpenSSL", "service_identity", "hpack"):
        try:
            import_module(name)
        except ImportError:
            missing.append(name)
    return missing


def timeouts(settings: Settings) -> Iterator[CheckResult]:
    """Times against each other, and against what proxies are like."""
    wait, idle = settings.long_poll_timeout, settings.idle_timeout
    if wait >= _PROXY_PATIENCE:
        sentence = f"{wait:g} s: many proxies give up after {_PROXY_PATIENCE:g} s of silence"
        yield CheckResult("long-poll timeout", "warning", sentence)
    else:
        yield CheckResult("long-poll timeout", "good", f"{wait:g} s, shorter than proxies wait")
    if settings.head_timeout > idle:
        sentence = f"{idle:g} s, and the head of a request may take {settings.head_timeout:g} s"
        yield CheckResult("idle timeout", "warning", f"{sentence}: connections end in between")
    elif idle < 5:
        sentence = f"{idle:g} s: clients have to connect anew for most requests"
        yield CheckResult("idle timeout", "warning", sentence)
    else:
        yield CheckResult("idle timeout", "good", f"{idle:g} s")
    if settings.sse_reconnect_interval < 5:
        sentence = f"{settings.sse_reconnect_interval:g} s: readers do little but reconnect"
        yield CheckResult("event streams", "warning", sentence)


def bodies(settings: Settings) -> CheckResult:
    """The largest body, beside what all together may take."""
    fit = settings.body_memory // settings.max_body
    if fit < 2:
        sentence = "a second one of max-body does not fit beside one: raise max-body-memory"
        return CheckResult("request bodies", "warning", sentence)
    return CheckResult("request bodies", "good", f"{fit:,} of max-body fit into max-body-memory")


def data_directory(directory: str, place: str, user: int | None) -> CheckResult:
    """Where streams are kept. ``place`` is what is there of it, ``user`` the process that owns
    it."""
    if place != directory:
        return CheckResult("data directory", "good", f"{directory} will be made")
    content = set(os.listdir(directory))
    if user is not None:
        return CheckResult("data directory", "good", f"{directory} is in use by process {user}")
    if DATA_FILE in content or content <= {"lost+found", "owner.lock", "lock.mdb"}:
        return CheckResult("data directory", "good", directory)
    sentence = f"{directory} has files that do not belong to this server: use an empty directory"
    return CheckResult("data directory", "bad", sentence)


def key_file(path: str, mode: int) -> CheckResult:
    """Who may read the keys."""
    if mode & 0o007:
        sentence = f"every user can read or change {path}: chmod 600 {path}"
        return CheckResult("webhook keys", "bad", sentence)
    if mode & 0o070:
        sentence = f"the group can read or change {path}; a start changes that"
        return CheckResult("webhook keys", "warning", sentence)
    return CheckResult("webhook keys", "good", "only their owner can read them")


def file_system(kind: str | None) -> CheckResult:
    """The kind of file system that streams are kept on, None where it is not known."""
    if kind is None:
        return CheckResult("file system", "good", "its kind is not known here")
    if kind.startswith(_NETWORK):
        sentence = f"{kind}: locks and maps of files need a local disk"
        return CheckResult("file system", "bad", sentence)
    if kind in ("tmpfs", "ramfs"):
        return CheckResult("file system", "warning", f"{kind} is memory: a reboot takes all")
    if kind == "overlay":
        sentence = "overlay goes with its container: mount a volume"
        return CheckResult("file system", "warning", sentence)
    return CheckResult("file system", "good", kind)


def room(size: int, free: int, quota: int | None) -> CheckResult:
    """A disk's size, what is free, and what streams may take (bytes)."""
    said = f"{free / (1 << 30):,.1f} of {size / (1 << 30):,.1f} GiB are free"
    if free < min(limits.DISK_RESERVE, size // 20):
        return CheckResult("disk", "bad", f"{said}: appends are refused (507)")
    if free < _LITTLE_ROOM:
        return CheckResult("disk", "warning", said)
    if quota is not None and quota > size:
        return CheckResult("disk", "warning", f"{said}: max-stored is more than the whole disk")
    return CheckResult("disk", "good", said)


def flushing(seconds: list[float]) -> CheckResult:
    """How long flushes took: every acknowledgement waits for one."""
    usual, worst = statistics.median(seconds), max(seconds)
    said = f"a flush takes {usual * 1000:.2f} ms, the slowest of {len(seconds)} {worst * 1000:.2f}"
    if usual > _TOO_SLOW:
        return CheckResult("flushing", "bad", f"{said}: no disk for this")
    if usual > _SLOW:
        return CheckResult("flushing", "warning", f"{said}: no append is quicker than that")
    if usual < _TOO_FAST:
        return CheckResult("flushing", "warning", f"{said}: as fast as if nothing reached a disk")
    return CheckResult("flushing", "good", said)


def _flush_times(place: str) -> list[float]:
    taken = []
    # Without a name, so that nothing is left behind.
    with tempfile.TemporaryFile(dir=place, buffering=0) as file:
        for _ in range(_FLUSHES):
            file.write(bytes(4096))
            started = time.perf_counter()
            os.fsync(file.fileno())
            taken.append(time.perf_counter() - started)
    return taken


def _nearest(directory: str) -> str:
    place = os.path.abspath(directory)
    if os.path.exists(place):
        return directory
    while not os.path.exists(place):
        place = os.path.dirname(place)
    return place


def _kind_of(place: str) -> str | None:
    """The kind of the file system that a path is on, as the system calls it."""
    try:
        with open("/proc/self/mountinfo", encoding="utf-8", errors="replace") as file:
            return kind_among(file.read(), os.stat(place).st_dev)
    except OSError:
        return None


def kind_among(mounts: str, device: int) -> str | None:
    """The kind of a device's file system in the text of Linux's mountinfo."""
    wanted = f"{os.major(device)}:{os.minor(device)}"
    for line in mounts.splitlines():
        fields, _, behind = line.partition(" - ")
        if len(fields.split()) > 2 and fields.split()[2] == wanted:
            return behind.split()[0]
    return None
