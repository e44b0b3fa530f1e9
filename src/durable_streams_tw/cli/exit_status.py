"""Exit statuses of the commands, documented in docs/client.md. click uses 2 for usage errors."""

from __future__ import annotations

import os
import signal
import sys
from typing import Final, NoReturn

FAILED: Final = 1
USAGE: Final = 2
NOT_FOUND: Final = 3
CONFLICT: Final = 4
NOT_ALLOWED: Final = 5
UNREACHABLE: Final = 6
UNKNOWN_OUTCOME: Final = 7
#: Exit statuses that a shell reports for processes killed by SIGINT and by SIGPIPE.
INTERRUPTED: Final = 128 + signal.SIGINT
OUTPUT_CLOSED: Final = 128 + signal.SIGPIPE


def exit_output_closed() -> NoReturn:
    """Exit because the reader of standard output has closed it."""
    # Python flushes standard output at exit, which would fail with EPIPE again.
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    sys.exit(OUTPUT_CLOSED)
