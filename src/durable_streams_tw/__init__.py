"""A server for the Durable Streams protocol, on Twisted.

`DurableStreams` is what programs use: a set of streams to mount in a site, to write to and
to follow. It is imported when it is first asked for, so that the pure parts of the package
need no Twisted.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from durable_streams_tw.embedded.api import DurableStreams
    from durable_streams_tw.embedded.values import Batch, StreamError, StreamInfo, Written
    from durable_streams_tw.http.settings import Settings
    from durable_streams_tw.http.twisted_web.site import StreamRequest

__version__ = "0.1.0"

__all__ = [
    "Batch",
    "DurableStreams",
    "Settings",
    "StreamError",
    "StreamInfo",
    "StreamRequest",
    "Written",
]

_HOMES = {
    "Batch": "embedded.values",
    "DurableStreams": "embedded.api",
    "Settings": "http.settings",
    "StreamError": "embedded.values",
    "StreamInfo": "embedded.values",
    "StreamRequest": "http.twisted_web.site",
    "Written": "embedded.values",
}


def __getattr__(name: str) -> object:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"durable_streams_tw.{home}"), name)
