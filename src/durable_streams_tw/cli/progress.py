"""Progress of long appends and reads, on a terminal only."""

from __future__ import annotations

import os
import stat
import sys
from typing import Any, Self

import click

#: Bytes below which there is no progress bar.
SMALL = 4 * 1024 * 1024


class Progress:
    """Bar on standard error, for transfers of more than SMALL bytes with a terminal there."""

    def __init__(self, label: str) -> None:
        self._label = label
        self._bar: Any = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.__exit__(None, None, None)
            self._bar = None

    def show(self, done: int, size: int) -> None:
        """Show that ``done`` of ``size`` bytes are transferred; end the bar with the last one."""
        if self._bar is None and size > SMALL and done < size and sys.stderr.isatty():
            self._bar = click.progressbar(length=size, label=self._label, file=sys.stderr)
            self._bar.__enter__()
        if self._bar is not None:
            self._bar.update(done - self._bar.pos)
            if done >= size:
                self.__exit__()


class StdinProgress(Progress):
    """Progress bar of a large regular file at standard input."""

    def __init__(self) -> None:
        super().__init__("Appending")
        status = os.fstat(0)
        self._size = status.st_size if stat.S_ISREG(status.st_mode) else 0
        self._done = 0

    def update(self, size: int) -> None:
        """Advance the bar by a number of bytes."""
        self._done += size
        self.show(self._done, self._size)


class ReadProgress(Progress):
    """Progress bar of each large response, unless its data is shown on the same terminal."""

    def __init__(self, descriptor: int = 1) -> None:
        super().__init__("Reading")
        self._is_visible = not os.isatty(descriptor)
        self._size = 0

    def update(self, size: int, remaining: int | None) -> None:
        """Advance the bar by a batch of ``size`` bytes, with ``remaining`` bytes after it."""
        if remaining is None or not self._is_visible:
            return
        self._size = self._size or size + remaining
        self.show(self._size - remaining, self._size)
        if not remaining:
            self._size = 0
