"""Import at startup of modules that a running server needs later.

A later import would fail if the package had been upgraded in place, or if no file descriptor were
free.
"""

from __future__ import annotations

from importlib import import_module
from typing import Final

#: Modules that are otherwise imported on first use.
LATER: Final = (
    "durable_streams_tw.subscriptions.webhook_transport",
    "durable_streams_tw.outgoing.error_text",
    # The codec by which JSON escapes are checked.
    "encodings.utf_16_be",
)


def preload() -> None:
    """Import all modules in `LATER`."""
    for name in LATER:
        import_module(name)
