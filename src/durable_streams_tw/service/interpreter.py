"""How the interpreter is set for a process that is all server.

A library leaves these alone; the program that runs the service is where they belong.
"""

from __future__ import annotations

import gc
import sys
from typing import Final

#: The committing thread and the reactor hand the interpreter to each other hundreds of times
#: a batch; at Python's default of 5 ms each hand-over of a busy reactor costs as much.
SWITCH_INTERVAL: Final = 0.0002

#: Requests, commands and outcomes of one batch are thousands of objects, nearly all of which
#: go by reference counts; at Python's default of 700 the collector walks them many times while
#: they live, for nothing, and now and then everything else too.
COLLECTIONS: Final = (20_000, 20, 100)


def tune() -> None:
    """Set the interpreter, once what is there for good has been made."""
    sys.setswitchinterval(SWITCH_INTERVAL)
    gc.set_threshold(*COLLECTIONS)
    # Modules, classes and functions need not be walked again.
    gc.freeze()
