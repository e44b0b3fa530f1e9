"""Interpreter settings and limits of a process that does nothing but serve.

A library leaves these alone; the program that runs the service sets them.
"""

from __future__ import annotations

import gc
import resource
import sys
from typing import Final

from twisted.logger import Logger

#: The committing thread and the reactor hand the interpreter to each other hundreds of times
#: a batch; at Python's default of 5 ms each hand-over of a busy reactor costs as much.
SWITCH_INTERVAL: Final = 0.0002

#: Requests, commands and outcomes of one batch are thousands of objects, nearly all of which
#: go by reference counts; at Python's default of 700 the collector walks them many times while
#: they live, for nothing, and now and then everything else too.
COLLECTIONS: Final = (20_000, 20, 100)

#: The most open files to ask for: some systems have no hard limit, and then any number is
#: allowed though the kernel has a bound of its own (fs.nr_open, 1,048,576 by default).
MOST_FILES: Final = 1 << 20

#: Open files that are not client connections: the store, logs, threads, webhook calls.
OWN_FILES: Final = 128

_log: Final = Logger()


def tune() -> None:
    """Set the interpreter. Call it once everything that stays for good has been made."""
    sys.setswitchinterval(SWITCH_INTERVAL)
    gc.set_threshold(*COLLECTIONS)
    # Modules, classes and functions need not be walked again.
    gc.freeze()


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

    ``wanted`` is ``max-connections``, 0 for any number. Without this bound a connection beyond
    the limit could not even be accepted to be answered 503, and opening a file would fail.
    """
    most = max(1, files - min(OWN_FILES, files // 2))
    return min(wanted, most) if wanted else most
