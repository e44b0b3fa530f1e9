"""Client for any server of the protocol: streams, followers, producers, workers.

The names of this package are stable between versions; its modules are not. Names are imported on
first access, so that importing one module does not import the others.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from durable_streams_tw.client.backoff import RetryEvent, RetryPolicy
    from durable_streams_tw.client.client import StreamClient
    from durable_streams_tw.client.errors import (
        BadResponse,
        BadTarget,
        ClientError,
        Conflict,
        Fenced,
        Forbidden,
        Gone,
        InvalidArgument,
        InvalidOffset,
        InvalidRequest,
        NotFound,
        OutcomeUnknown,
        ProducerStopped,
        RateLimited,
        Rejected,
        SequenceConflict,
        StreamClosed,
        TooLarge,
        Unauthorized,
        Unavailable,
        Unreachable,
        Untrusted,
    )
    from durable_streams_tw.client.follow import Batch
    from durable_streams_tw.client.producer import Delivery, Producer
    from durable_streams_tw.client.stream import Stream
    from durable_streams_tw.client.values import StreamInfo, Written
    from durable_streams_tw.client.wakes import PendingStream, Wake
    from durable_streams_tw.client.webhooks import UnverifiedWebhook, WebhookReceiver
    from durable_streams_tw.client.worker import PullWakeWorker

__all__ = [
    "BadResponse",
    "BadTarget",
    "Batch",
    "ClientError",
    "Conflict",
    "Delivery",
    "Fenced",
    "Forbidden",
    "Gone",
    "InvalidArgument",
    "InvalidOffset",
    "InvalidRequest",
    "NotFound",
    "OutcomeUnknown",
    "PendingStream",
    "Producer",
    "ProducerStopped",
    "PullWakeWorker",
    "RateLimited",
    "Rejected",
    "RetryEvent",
    "RetryPolicy",
    "SequenceConflict",
    "Stream",
    "StreamClient",
    "StreamClosed",
    "StreamInfo",
    "TooLarge",
    "Unauthorized",
    "Unavailable",
    "Unreachable",
    "Untrusted",
    "UnverifiedWebhook",
    "Wake",
    "WebhookReceiver",
    "Written",
]

_MODULES = {
    "backoff": ("RetryEvent", "RetryPolicy"),
    "client": ("StreamClient",),
    "follow": ("Batch",),
    "producer": ("Delivery", "Producer"),
    "stream": ("Stream",),
    "values": ("StreamInfo", "Written"),
    "wakes": ("PendingStream", "Wake"),
    "webhooks": ("UnverifiedWebhook", "WebhookReceiver"),
    "worker": ("PullWakeWorker",),
}
_PLACES = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_PLACES.get(name, 'errors')}"), name)
