"""Interpreter settings and resource limits of a dedicated server process.

The programs ``run``, ``dev`` and twistd set them; an embedding program decides for itself.
"""

from __future__ import annotations

import ctypes
import gc
import resource
import sys
from typing import Final

from twisted.logger import Logger

#: Seconds between switches of threads. The committer thread and the reactor switch hundreds of
#: times per batch; with Python's default of 5 ms each switch away from a busy reactor takes 5 ms.
SWITCH_INTERVAL: Final = 0.0002

#: Thresholds of the garbage collector. A batch has thousands of objects, nearly all freed by
#: reference counting; with Python's default of 700 the collector would traverse them many times.
COLLECTIONS: Final = (20_000, 20, 100)

#: Parameters of glibc's ``mallopt`` and their value in bytes. Buffers of at least this size are
#: mapped one by one and returned to the system when freed. By default glibc raises the threshold
#: after each large buffer, and the heap grows by fragmentation.
M_TRIM_THRESHOLD: Final = -1
M_MMAP_THRESHOLD: Final = -3
MMAP_THRESHOLD: Final = 1 << 20

#: Maximum of open files to request if there is no hard limit: the kernel has its own limit
#: (fs.nr_open, 1,048,576 by default).
MOST_FILES: Final = 1 << 20

#: File descriptors reserved for the store, logs, threads and webhook requests.
OWN_FILES: Final = 128

_log: Final = Logger()


def tune() -> None:
    """Set the options of interpreter and allocator.

    Call once, after all permanent objects have been created.
    """
    sys.setswitchinterval(SWITCH_INTERVAL)
    gc.set_threshold(*COLLECTIONS)
    # Exclude modules, classes and functions from later collections.
    gc.freeze()
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:  # absent from musl
        mallopt(M_MMAP_THRESHOLD, MMAP_THRESHOLD)
        mallopt(M_TRIM_THRESHOLD, MMAP_THRESHOLD)


def raise_file_limit() -> int:
    """Raise the soft limit of open files to the hard limit; return the limit in force."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MOST_FILES if hard == resource.RLIM_INFINITY else min(hard, MOST_FILES)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return MOST_FILES if soft == resource.RLIM_INFINITY else soft
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    except (OSError, ValueError) as error:
        _log.warn("Could not raise the limit of open files: {reason}", reason=str(error))
        return soft
    return wanted


def connections_within(files: int, wanted: int) -> int:
    """Return the number of connections that a limit of open files allows.

    ``wanted`` is ``max-connections``, 0 for no limit. Without this bound, connections beyond the
    limit could not be accepted and refused with 503, and opening a file would fail.
    """
    most = max(1, files - min(OWN_FILES, files // 2))
    return min(wanted, most) if wanted else most
