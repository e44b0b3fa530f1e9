"""The supervisor as the parent of its workers: their end together with it, and its orphans."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from twisted.internet import process

_PR_SET_PDEATHSIG: Final = 1
_PR_SET_CHILD_SUBREAPER: Final = 36

_PAUSE: Final = 0.001

#: True if a process can become the parent of the orphans among its descendants.
ADOPTS_ORPHANS: Final = sys.platform.startswith("linux")


def end_with_parent(number: int) -> None:
    """Have the kernel send a signal when the parent ends. Linux only.

    Without it, a process ends when it finds its connection to the parent closed: not while it is
    suspended or in an endless loop.
    """
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, number)


def call_without_parent(parent: int, call: Callable[[], object]) -> None:
    """Call a function and exit when the parent, the process with this id, ends or has ended.

    Linux only, as `end_with_parent`. SIGCONT is the signal that a suspended process handles too.
    """
    own = os.getpid()

    def check(*_: object) -> None:
        # Forks inherit the handler.
        if os.getpid() == own and os.getppid() != parent:
            call()
            os._exit(0)

    signal.signal(signal.SIGCONT, check)
    end_with_parent(signal.SIGCONT)
    # The parent may have ended before the kernel was to send a signal.
    check()


def adopt_orphans() -> None:
    """Become the parent of descendants whose parent ends, if `ADOPTS_ORPHANS`."""
    if ADOPTS_ORPHANS:
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1)


def reap_orphans() -> None:
    """Reap all orphans that have ended, if `ADOPTS_ORPHANS`; Twisted reaps the other children."""
    process.reapAllProcesses()
    with suppress(ChildProcessError):
        while ADOPTS_ORPHANS:
            ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            if ended is None or ended.si_pid in process.reapProcessHandlers:
                return
            os.waitpid(ended.si_pid, 0)


def await_adoption(parent: int) -> None:
    """Wait until this process, a child of the process with this id, is an orphan."""
    while os.getppid() == parent:
        time.sleep(_PAUSE)
