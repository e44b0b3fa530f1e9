"""Checks of the ``doctor`` command.

Each check is a pure function of measured values, so that tests can produce every result;
`run_checks` measures the values.
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
from durable_streams_tw.service.value_parsers import cores
from durable_streams_tw.storage import limits
from durable_streams_tw.storage.data_dir import owner
from durable_streams_tw.storage.engine.limits import MAP_SIZE
from durable_streams_tw.storage.files import DATA_FILE
from durable_streams_tw.subscriptions.keyring import KEYS_FILE

_FLUSHES: Final = 20
# File descriptors other than connections: the store, logs, threads, the reactor.
_OWN_FILES: Final = 64
_FEW_FILES: Final = 256
# Default response timeout of many proxies (seconds).
_PROXY_TIMEOUT: Final = 60.0
_NETWORK: Final = ("nfs", "cifs", "smb", "9p", "fuse", "ceph", "gluster", "afs")
# Flush latencies (seconds).
_SLOW: Final = 0.02
_TOO_SLOW: Final = 0.5
_TOO_FAST: Final = 0.00001
_LITTLE_ROOM: Final = 1 << 30


class CheckResult(Struct, frozen=True):
    """Result of one check.

    ``grade`` is ``bad`` if the server would not start or would lose its guarantees, ``warning`` if
    it may not work as expected.
    """

    name: str
    grade: Literal["good", "warning", "bad"]
    sentence: str


def run_checks(configuration: Configuration) -> Iterator[CheckResult]:
    """Yield the results of all checks of this machine for a server with these settings."""
    settings = configuration.settings
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    yield open_files(files, settings.max_connections)
    yield workers(configuration["workers"], cores(), owner=configuration["database"] is None)
    space, _ = resource.getrlimit(resource.RLIMIT_AS)
    yield protocols(_missing_packages())
    yield from timeouts(settings)
    yield bodies(settings)
    directory: str | None = configuration["data-dir"]
    if configuration["database"] is not None:
        # Imported here, because psycopg is optional.
        from durable_streams_tw.cli.doctor_database import run_database_checks

        for name, grade, sentence in run_database_checks(configuration):
            yield CheckResult(name, grade, sentence)
        return
    if directory is None:
        yield CheckResult(
            "data directory",
            "warning",
            "not set: streams are in memory and are lost when the server stops",
        )
        return
    yield address_space(space)
    place = _nearest(directory)
    if not os.access(place, os.W_OK | os.X_OK | os.R_OK) or not os.path.isdir(place):
        yield CheckResult("data directory", "bad", f"{place} is not writable")
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
        yield CheckResult("flushing", "bad", f"cannot write to {place}: {error.strerror}")


def open_files(limit: int, connections: int) -> CheckResult:
    """Check the limit of open files against ``max-connections`` (0: no limit)."""
    if limit == resource.RLIM_INFINITY or 0 < connections <= limit - _OWN_FILES:
        return CheckResult("open files", "good", f"sufficient for {connections:,} connections")
    bound = (
        f"max-connections is {connections:,}" if connections else "max-connections is 0 (no limit)"
    )
    sentence = f"limit is {limit:,}, {bound}: raise ulimit -n (LimitNOFILE=) or lower it"
    return CheckResult("open files", "bad" if limit < _FEW_FILES else "warning", sentence)


def workers(count: int, available: int, *, owner: bool) -> CheckResult:
    """Check the number of processes that serve HTTP against the number of cores.

    ``owner`` tells whether another process has the store.
    """
    if count == 1:
        sentence = f"one process; {available} cores are available"
        return CheckResult("workers", "good", sentence)
    if count + owner > available:
        advice = "the owner of the store needs a core too" if owner else "they share the cores"
        sentence = f"{count} for {available} cores: {advice}"
        return CheckResult("workers", "warning", sentence)
    return CheckResult("workers", "good", f"{count} for {available} cores")


def address_space(limit: int) -> CheckResult:
    """Check the limit of virtual memory (bytes) against the size of the LMDB environment."""
    if limit == resource.RLIM_INFINITY or limit > 2 * MAP_SIZE:
        return CheckResult("address space", "good", "sufficient")
    grade: Literal["warning", "bad"] = "bad" if limit < 1 << 31 else "warning"
    sentence = f"ulimit -v is {limit >> 30:,} GiB: the store cannot grow beyond that"
    return CheckResult("address space", grade, sentence)


def protocols(missing: Sequence[str]) -> CheckResult:
    """Check that TLS and HTTP/2 are available; ``missing`` packages cannot be imported."""
    if not missing:
        sentence = "available on ssl: endpoints"
        return CheckResult("TLS and HTTP/2", "good", sentence)
    names = ", ".join(missing)
    sentence = f"not available: cannot import {names}; reinstall the server with pip"
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
    """Check timeouts against each other and against usual timeouts of proxies."""
    wait, idle = settings.long_poll_timeout, settings.idle_timeout
    if wait >= _PROXY_TIMEOUT:
        sentence = f"{wait:g} s: many proxies time out after {_PROXY_TIMEOUT:g} s without data"
        yield CheckResult("long-poll timeout", "warning", sentence)
    else:
        yield CheckResult(
            "long-poll timeout", "good", f"{wait:g} s, shorter than the usual timeout of proxies"
        )
    if settings.head_timeout > idle:
        sentence = f"{idle:g} s, shorter than request-header-timeout ({settings.head_timeout:g} s)"
        yield CheckResult(
            "idle timeout", "warning", f"{sentence}: connections may close while a request arrives"
        )
    elif idle < 5:
        sentence = f"{idle:g} s: clients must reconnect for most requests"
        yield CheckResult("idle timeout", "warning", sentence)
    else:
        yield CheckResult("idle timeout", "good", f"{idle:g} s")
    if settings.sse_reconnect_interval < 5:
        sentence = f"{settings.sse_reconnect_interval:g} s: clients reconnect very often"
        yield CheckResult("event streams", "warning", sentence)


def bodies(settings: Settings) -> CheckResult:
    """Check ``max-body`` against ``max-body-memory``."""
    fit = settings.body_memory // settings.max_body
    if fit < 2:
        sentence = "max-body-memory holds only one body of max-body: raise it"
        return CheckResult("request bodies", "warning", sentence)
    return CheckResult(
        "request bodies", "good", f"max-body-memory holds {fit:,} bodies of max-body"
    )


def data_directory(directory: str, place: str, user: int | None) -> CheckResult:
    """Check the data directory.

    ``place`` is its nearest existing ancestor, ``user`` the PID of the process that has locked it.
    """
    if place != directory:
        return CheckResult("data directory", "good", f"{directory} will be created")
    content = set(os.listdir(directory))
    if user is not None:
        return CheckResult("data directory", "good", f"{directory} is in use by process {user}")
    if DATA_FILE in content or content <= {"lost+found", "owner.lock", "lock.mdb"}:
        return CheckResult("data directory", "good", directory)
    sentence = f"{directory} contains files of other programs: use an empty directory"
    return CheckResult("data directory", "bad", sentence)


def key_file(path: str, mode: int) -> CheckResult:
    """Check the permissions of the key file."""
    if mode & 0o007:
        sentence = f"every user can read or change {path}: run chmod 600 {path}"
        return CheckResult("webhook keys", "bad", sentence)
    if mode & 0o070:
        sentence = f"the group can read or change {path}: the server removes that at its next start"
        return CheckResult("webhook keys", "warning", sentence)
    return CheckResult("webhook keys", "good", "readable only by the owner")


def file_system(kind: str | None) -> CheckResult:
    """Check the type of the file system, None if it is unknown."""
    if kind is None:
        return CheckResult("file system", "good", "unknown type")
    if kind.startswith(_NETWORK):
        sentence = f"{kind}: file locks and memory maps require a local disk"
        return CheckResult("file system", "bad", sentence)
    if kind in ("tmpfs", "ramfs"):
        return CheckResult(
            "file system", "warning", f"{kind} is in memory: its contents are lost at reboot"
        )
    if kind == "overlay":
        sentence = "overlay: its contents are lost with the container; mount a volume"
        return CheckResult("file system", "warning", sentence)
    return CheckResult("file system", "good", kind)


def room(size: int, free: int, quota: int | None) -> CheckResult:
    """Check the size and free space of the disk, and ``max-stored`` (bytes)."""
    figures = f"{free / (1 << 30):,.2f} of {size / (1 << 30):,.2f} GiB free"
    if free < min(limits.DISK_RESERVE, size // 20):
        return CheckResult("disk", "bad", f"{figures}: appends are refused (507)")
    if free < _LITTLE_ROOM:
        return CheckResult(
            "disk", "warning", f"{figures}: appends are refused when it is full (507)"
        )
    if quota is not None and quota > size:
        return CheckResult("disk", "warning", f"{figures}: max-stored exceeds the size of the disk")
    return CheckResult("disk", "good", figures)


def flushing(seconds: list[float]) -> CheckResult:
    """Check the latencies of flushes (seconds): each acknowledged append waits for one."""
    usual, worst = statistics.median(seconds), max(seconds)
    figures = f"median {usual * 1000:.2f} ms, maximum {worst * 1000:.2f} ms of {len(seconds)}"
    if usual > _TOO_SLOW:
        return CheckResult("flushing", "bad", f"{figures}: the disk is too slow")
    if usual > _SLOW:
        return CheckResult(
            "flushing", "warning", f"{figures}: this is the minimum latency of appends"
        )
    if usual < _TOO_FAST:
        return CheckResult(
            "flushing", "warning", f"{figures}: too fast for a disk; flushes may not be durable"
        )
    return CheckResult("flushing", "good", figures)


def _flush_times(place: str) -> list[float]:
    taken = []
    # An unnamed file: it disappears if this process is killed.
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
    """Return the type of the file system of a path, None if it is unknown."""
    try:
        with open("/proc/self/mountinfo", encoding="utf-8", errors="replace") as file:
            return kind_among(file.read(), os.stat(place).st_dev)
    except OSError:
        return None


def kind_among(mounts: str, device: int) -> str | None:
    """Return the type of a device's file system according to /proc/self/mountinfo."""
    wanted = f"{os.major(device)}:{os.minor(device)}"
    for line in mounts.splitlines():
        fields, _, after = line.partition(" - ")
        if len(fields.split()) > 2 and fields.split()[2] == wanted:
            return after.split()[0]
    return None
