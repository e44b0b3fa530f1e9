"""Cores, limits and description of the machine."""

from __future__ import annotations

import os
import platform
import re
import resource
import shutil
import socket
import time
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path


@dataclass(frozen=True)
class Cores:
    """Cores of the server and of the load; ``server`` is None if pinning is impossible."""

    server: int | None
    load: int | None

    def pin(self) -> list[str]:
        """Return the prefix of a server's command."""
        return [] if self.server is None else ["taskset", "-c", str(self.server)]

    def take_load(self) -> None:
        """Move this process, and children started without `pin`, to the load generator's core."""
        if self.load is not None:
            os.sched_setaffinity(0, {self.load})


def choose_cores(server: int | None, load: int | None) -> tuple[Cores, str | None]:
    """Return two cores, the requested ones if given, and a message if there are not two."""
    usable = sorted(os.sched_getaffinity(0))
    if shutil.which("taskset") is None:
        return Cores(None, None), "Nothing is pinned: taskset is not on the path"
    if len(usable) < 2:
        return Cores(None, None), "Server and load share the only core that there is"
    chosen = usable[0] if server is None else server
    other = next(core for core in usable if core != chosen) if load is None else load
    return Cores(chosen, other), None


def raise_file_limit() -> int:
    """Raise the limit of open files to the hard limit and return it. Servers inherit it."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


def foreign_load(seconds: float = 1.0) -> float:
    """Return the load by other processes over all cores, 0 to 1, while this process sleeps."""

    def ticks() -> tuple[int, int]:
        fields = [
            int(word) for word in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]
        ]
        # Idle time and I/O wait.
        return sum(fields[:8]), fields[3] + fields[4]

    total, idle = ticks()
    time.sleep(seconds)
    total_after, idle_after = ticks()
    passed = total_after - total
    return 1 - (idle_after - idle) / passed if passed else 0.0


def free_port() -> int:
    """Return a free TCP port of 127.0.0.1."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def describe(directory: Path) -> str:
    """Return a line with processor, cores, memory, kernel, and the file system of ``directory``."""
    found = re.search(r"^model name\s*: (.+)$", Path("/proc/cpuinfo").read_text(), re.M)
    processor = " ".join(found[1].split()) if found else platform.machine()
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return (
        f"{processor}, {os.cpu_count()} cores, {pages / 2**30:.0f} GiB, "
        f"Linux {platform.release()}, stores on {_file_system(directory)}"
    )


def _file_system(directory: Path) -> str:
    at = directory.resolve()
    best, kind = "", "unknown"
    for line in Path("/proc/self/mounts").read_text().splitlines():
        point, name = line.split()[1:3]
        if len(point) >= len(best) and (at == Path(point) or Path(point) in at.parents):
            best, kind = point, name
    return kind


def python_versions() -> dict[str, str]:
    """Return the versions of Python and the packages that this server uses."""
    names = ("durable-streams-tw", "twisted", "klein", "lmdb", "httptools", "msgspec", "zlib-ng")
    return {"Python": platform.python_version()} | {name: version(name) for name in names}
