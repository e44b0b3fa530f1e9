"""Server for the Durable Streams protocol, on Twisted.

Programs use `DurableStreams`: a set of streams to mount in a site, write to and follow. Names are
imported on first access, so that importing the pure modules does not import Twisted.
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

_MODULES = {
    "Batch": "embedded.values",
    "DurableStreams": "embedded.api",
    "Settings": "http.settings",
    "StreamError": "embedded.values",
    "StreamInfo": "embedded.values",
    "StreamRequest": "http.twisted_web.site",
    "Written": "embedded.values",
}


def __getattr__(name: str) -> object:
    module = _MODULES.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"durable_streams_tw.{module}"), name)
