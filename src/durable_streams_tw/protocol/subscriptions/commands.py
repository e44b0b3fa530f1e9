"""Commands that a store carries out for subscriptions (PROTOCOL.md §6, §7)."""

from __future__ import annotations

from enum import Enum

from msgspec import Struct

from durable_streams_tw.protocol.errors import Refusal
from durable_streams_tw.protocol.streams.offsets import RequestedOffset
from durable_streams_tw.protocol.streams.preconditions import Precondition
from durable_streams_tw.protocol.subscriptions.state import Config, Kind, Proof, Wake


class Subscribe(Struct, frozen=True):
    """PUT: make a subscription, or make sure that it is there. ``streams`` are names."""

    id: str
    config: Config
    streams: tuple[str, ...]
    digest: bytes
    precondition: Precondition | None = None


class Unsubscribe(Struct, frozen=True):
    """DELETE: end a subscription."""

    id: str
    precondition: Precondition | None = None


class LinkStreams(Struct, frozen=True):
    """POST streams: name more streams."""

    id: str
    streams: tuple[str, ...]


class UnlinkStream(Struct, frozen=True):
    """DELETE streams/:path: name a stream no longer."""

    id: str
    path: str


class Claim(Struct, frozen=True):
    """POST claim: a worker wants the work."""

    id: str
    worker: str


class Ack(Struct, frozen=True):
    """A stream's name, and the offset up to which it is done."""

    path: str
    offset: RequestedOffset


class Settle(Struct, frozen=True):
    """POST callback or ack: acknowledge, and go on or be ``done``.

    ``kind`` is of the subscriptions that it is meant for; ``proof`` what the token says, or
    why it is refused. ``between`` is set by the store: positions by stream id that are known to lie
    between messages.
    """

    id: str
    kind: Kind
    proof: Proof | Refusal
    wake: Wake
    acks: tuple[Ack, ...]
    done: bool
    between: frozenset[tuple[int, int]] = frozenset()


class Release(Struct, frozen=True):
    """POST release: give the work back."""

    id: str
    proof: Proof | Refusal
    wake: Wake


class DeliveryResult(Enum):
    """What came of calling a webhook."""

    DONE = "it has done the work"
    ACCEPTED = "it will call back"
    FAILED = "it was not reached, or did not accept"


class Delivered(Struct, frozen=True):
    """The server's own word of a webhook's call.

    ``seen`` are the tails that it was told, ``chance`` (from 0 to 1) spreads retries.
    """

    id: str
    number: int
    wake: Wake
    result: DeliveryResult
    seen: tuple[Ack, ...] = ()
    chance: float = 0.5


class Due(Struct, frozen=True):
    """The server's own word that something of this subscription may be due by now."""

    id: str
    number: int


SubscriptionCommand = (
    Subscribe
    | Unsubscribe
    | LinkStreams
    | UnlinkStream
    | Claim
    | Settle
    | Release
    | Delivered
    | Due
)
