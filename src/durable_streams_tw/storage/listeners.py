"""Telling listeners what a commit has done."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

from twisted.logger import Logger

T = TypeVar("T")

_log = Logger()


def tell(listeners: Iterable[Callable[[Sequence[T]], None]], news: Sequence[T]) -> None:
    """Call each listener with the news, if there are any; one's bug is not the others'."""
    if not news:
        return
    for listener in listeners:
        try:
            listener(news)
        except Exception:  # noqa: BLE001 - logged, and the others are told all the same
            _log.failure("a listener failed")
