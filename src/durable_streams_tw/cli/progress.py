"""Progress of long appends and reads, on a terminal only."""

from __future__ import annotations

import os
import stat
import sys
from types import TracebackType
from typing import Any, Self

import click

#: Input in bytes below which there is no progress bar.
SMALL = 4 * 1024 * 1024


class StdinProgress:
    """Progress bar of a large regular file at standard input, on standard error."""

    def __init__(self, descriptor: int = 0) -> None:
        status = os.fstat(descriptor)
        size = status.st_size if stat.S_ISREG(status.st_mode) else 0
        self._bar: Any = None
        if size > SMALL and sys.stderr.isatty():
            self._bar = click.progressbar(length=size, label="Appending", file=sys.stderr)

    def __enter__(self) -> Self:
        if self._bar is not None:
            self._bar.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.__exit__(kind, error, trace)

    def update(self, size: int) -> None:
        """Advance the bar by a number of bytes."""
        if self._bar is not None:
            self._bar.update(size)
