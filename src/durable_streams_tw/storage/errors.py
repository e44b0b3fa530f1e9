"""Exceptions of the stores."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

_FULL: Final = (errno.ENOSPC, errno.EDQUOT)


class StoreUnusable(Exception):
    """Failure to open a store. The message is a sentence for the operator."""


class CorruptRecord(Exception):
    """Stored record that is missing or fails its checksum; ``key`` is its key in the engine."""

    def __init__(self, key: bytes, what: str) -> None:
        super().__init__(f"{what}: key {key!r}")
        self.key = key


@contextmanager
def store_unusable(what: str, *others: type[Exception]) -> Iterator[None]:
    """Raise `StoreUnusable` with ``what`` and the reason for an `OSError` and for ``others``."""
    kinds: tuple[type[Exception], ...] = (OSError, *others)
    try:
        yield
    except kinds as error:
        reason = getattr(error, "strerror", None) or str(error)
        if getattr(error, "errno", None) in _FULL:
            reason = "the disk is full"
        raise StoreUnusable(f"{what}: {reason}") from None
