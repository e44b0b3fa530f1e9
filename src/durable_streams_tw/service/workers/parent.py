"""End of a worker together with its parent, the supervisor."""

from __future__ import annotations

import ctypes
import os
import sys
import time
from typing import Final

_PR_SET_PDEATHSIG: Final = 1
_PR_SET_CHILD_SUBREAPER: Final = 36

_PAUSE: Final = 0.001

#: True if a process can become the parent of the orphans among its descendants.
ADOPTS_ORPHANS: Final = sys.platform.startswith("linux")


def end_with_parent(number: int) -> None:
    """Have the kernel send a signal when the parent ends, 0 for none. Linux only.

    A worker also notices that the pair is closed, but not while it is busy, such as with imports.
    """
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, number)


def adopt_orphans() -> None:
    """Become the parent of descendants whose parent ends, if `ADOPTS_ORPHANS`."""
    if ADOPTS_ORPHANS:
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1)


def await_adoption(parent: int) -> None:
    """Wait until this process, a child of the process with this id, is an orphan."""
    while os.getppid() == parent:
        time.sleep(_PAUSE)
