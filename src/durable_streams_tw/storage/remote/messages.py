"""Messages between a `RemoteStore` and its `StoreServer`.

A remote store numbers its requests; the reply has the number of its request. Both ends run the same
version of the server, so the messages contain the commands and outcomes of the store as they are.
"""

from __future__ import annotations

from typing import Any, Final

from msgspec import Raw, Struct
from msgspec.msgpack import Decoder, Encoder

from durable_streams_tw import __version__
from durable_streams_tw.protocol.streams.offsets import RequestedOffset
from durable_streams_tw.protocol.streams.state import StreamState
from durable_streams_tw.protocol.subscriptions.outcomes import WorkItem
from durable_streams_tw.protocol.subscriptions.state import AlreadyClaimed, Subscription
from durable_streams_tw.storage.api import (
    Change,
    Chunk,
    Command,
    Outcome,
    Stats,
)
from durable_streams_tw.storage.commands.subscription_listing import (
    ListSubscriptions,
    SubscriptionPage,
)
from durable_streams_tw.storage.commands.subscription_queries import (
    DescribeSubscription,
    Description,
    ScheduledSubscriptions,
    SubscriptionPaths,
    WakeWork,
)
from durable_streams_tw.storage.queries import ListStreams, Page, StreamStates

#: Version of the messages. Increase the number with every change that a peer of the same release
#: could not decode.
VERSION: Final = f"{__version__}/1"


class Fragment(Struct, array_like=True, tag=True, gc=False):
    """Part of an array of messages that is too large for one frame."""

    data: bytes
    last: bool


Question = (
    ListStreams
    | StreamStates
    | ListSubscriptions
    | DescribeSubscription
    | SubscriptionPaths
    | ScheduledSubscriptions
    | WakeWork
)


# -- from the remote store ------------------------------------------------------------------------


class Hello(Struct, array_like=True, tag=True, gc=False):
    """First message of a connection."""

    version: str


class Execute(Struct, array_like=True, tag=True, gc=False):
    """Request for `IStreamStore.execute`."""

    number: int
    command: Command


class Read(Struct, array_like=True, tag=True, gc=False):
    """Request for `IStreamStore.read`."""

    number: int
    path: str
    offset: RequestedOffset
    limit: int
    stream_id: int | None
    piece: int | None


class ReadRange(Struct, array_like=True, tag=True, gc=False):
    """Request for `IStreamStore.read_range`."""

    number: int
    path: str
    stream_id: int
    start: int
    stop: int


class GetState(Struct, array_like=True, tag=True, gc=False):
    """Request for `IStreamStore.get_state`."""

    number: int
    path: str


class Ask(Struct, array_like=True, tag=True, gc=False):
    """Request for `IStreamStore.query`."""

    number: int
    question: Question


class GetStats(Struct, array_like=True, tag=True, gc=False):
    """Request for `IStreamStore.stats`."""

    number: int


class CheckWritable(Struct, array_like=True, tag=True, gc=False):
    """Request for `IStreamStore.check_writable`."""

    number: int


class Pin(Struct, array_like=True, tag=True, gc=False):
    """Request for `IStreamStore.pin`, and for the changes of the stream. Has no reply."""

    stream_id: int


class Unpin(Struct, array_like=True, tag=True, gc=False):
    """End of a `Pin`. Has no reply."""

    stream_id: int


Request = (
    Hello
    | Execute
    | Read
    | ReadRange
    | GetState
    | Ask
    | GetStats
    | CheckWritable
    | Pin
    | Unpin
    | Fragment
)


# -- from the server ------------------------------------------------------------------------------


class Welcome(Struct, array_like=True, tag=True, gc=False):
    """Reply to a `Hello`, sent again when ``shared`` changes; it becomes `RemoteStore.shared`.

    ``directory`` is the data directory of a durable store.
    """

    shared: bytes
    directory: str | None


class Rejected(Struct, array_like=True, tag=True, gc=False):
    """Reply to a `Hello` of another version, before the connection is closed."""

    reason: str


class Reply(Struct, array_like=True, tag=True, gc=False):
    """Reply to `Execute`, `Read` and `GetStats`; also the refusal of any request."""

    number: int
    result: Outcome | AlreadyClaimed | Chunk | Stats | None


class StateReply(Struct, array_like=True, tag=True, gc=False):
    """Reply to `GetState`."""

    number: int
    result: StreamState


class BytesReply(Struct, array_like=True, tag=True, gc=False):
    """Reply to `ReadRange`."""

    number: int
    result: bytes


class ObstacleReply(Struct, array_like=True, tag=True, gc=False):
    """Reply to `CheckWritable`."""

    number: int
    result: str | None


class Answer(Struct, array_like=True, tag=True, gc=False):
    """Reply to `Ask`; `ANSWERS` decodes the result."""

    number: int
    result: Raw


class Changed(Struct, array_like=True, tag=True, gc=False):
    """Effect of a commit on a pinned stream.

    The data of a large append are left out: followers read them.
    """

    change: Change


Response = (
    Welcome
    | Rejected
    | Reply
    | StateReply
    | BytesReply
    | ObstacleReply
    | Answer
    | Changed
    | Fragment
)

ANSWERS: Final[dict[type, Decoder[Any]]] = {
    ListStreams: Decoder(Page),
    StreamStates: Decoder(tuple[StreamState | None, ...]),
    ListSubscriptions: Decoder(SubscriptionPage),
    DescribeSubscription: Decoder(Description),
    SubscriptionPaths: Decoder(tuple[str | None, tuple[str, ...]]),
    ScheduledSubscriptions: Decoder(list[Subscription]),
    WakeWork: Decoder(tuple[WorkItem, ...] | None),
}

encode: Final = Encoder().encode
decode_requests: Final = Decoder(list[Request]).decode
decode_responses: Final = Decoder(list[Response]).decode
