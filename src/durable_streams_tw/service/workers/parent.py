"""End of a worker together with its parent, the supervisor."""

from __future__ import annotations

import ctypes
import sys
from typing import Final

_PR_SET_PDEATHSIG: Final = 1


def end_with_parent(number: int) -> None:
    """Have the kernel send a signal when the parent ends, 0 for none. Linux only.

    A worker also notices that the pair is closed, but not while it is busy, such as with imports.
    """
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, number)
