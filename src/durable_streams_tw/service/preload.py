"""Import at the start what a running server needs later.

A later import fails if the package has been upgraded in place since the start, or if no file
can be opened at that moment.
"""

from __future__ import annotations

from importlib import import_module
from typing import Final

#: Modules that are otherwise imported when they are first used.
LATER: Final = ("durable_streams_tw.subscriptions.webhook_transport",)


def preload() -> None:
    """Import all modules of `LATER`."""
    for name in LATER:
        import_module(name)
