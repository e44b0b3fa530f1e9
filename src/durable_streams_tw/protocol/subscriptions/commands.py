"""Commands that a store carries out for subscriptions (PROTOCOL.md §6, §7)."""

from __future__ import annotations

from enum import Enum

from msgspec import Struct

from durable_streams_tw.protocol.errors import Refusal
from durable_streams_tw.protocol.streams.offsets import RequestedOffset
from durable_streams_tw.protocol.streams.preconditions import Precondition
from durable_streams_tw.protocol.subscriptions.state import Config, Kind, TokenClaims, Wake


class Subscribe(Struct, frozen=True, array_like=True, tag=True):
    """Command to create a subscription (PUT). ``digest`` is that of its configuration."""

    id: str
    config: Config
    streams: tuple[str, ...]
    digest: bytes
    precondition: Precondition | None = None


class Unsubscribe(Struct, frozen=True, array_like=True, tag=True):
    """Command to delete a subscription (DELETE)."""

    id: str
    precondition: Precondition | None = None


class LinkStreams(Struct, frozen=True, array_like=True, tag=True):
    """Command to add explicit streams (POST streams)."""

    id: str
    streams: tuple[str, ...]


class UnlinkStream(Struct, frozen=True, array_like=True, tag=True):
    """Command to remove an explicit stream (DELETE streams/:path)."""

    id: str
    path: str


class Claim(Struct, frozen=True, array_like=True, tag=True):
    """Command by which a worker claims the wake (POST claim)."""

    id: str
    worker: str


class Ack(Struct, frozen=True, array_like=True):
    """Acknowledgement of a stream up to an offset."""

    path: str
    offset: RequestedOffset


class Settle(Struct, frozen=True, array_like=True, tag=True):
    """Command to acknowledge streams and renew or end the lease (POST callback or ack).

    ``kind`` is the kind of subscription that the resource serves. ``proof`` is the claims of the
    token or the refusal of it. ``done`` ends the wake. The store sets ``between``: pairs of
    stream id and position that it has checked to be message boundaries.
    """

    id: str
    kind: Kind
    proof: TokenClaims | Refusal
    wake: Wake
    acks: tuple[Ack, ...]
    done: bool
    between: frozenset[tuple[int, int]] = frozenset()


class Release(Struct, frozen=True, array_like=True, tag=True):
    """Command to give the wake back without acknowledging it (POST release)."""

    id: str
    proof: TokenClaims | Refusal
    wake: Wake


class DeliveryResult(Enum):
    """Result of a webhook call."""

    DONE = "the webhook has done the work"
    ACCEPTED = "the webhook will call back"
    FAILED = "the webhook was not reached, or refused"


class Delivered(Struct, frozen=True, array_like=True, tag=True):
    """Command of the server that records the result of a webhook call.

    ``seen`` are the tails that the call reported. ``chance``, a random number in [0, 1], spreads
    retries.
    """

    id: str
    number: int
    wake: Wake
    result: DeliveryResult
    seen: tuple[Ack, ...] = ()
    chance: float = 0.5


class Due(Struct, frozen=True, array_like=True, tag=True):
    """Command of the server to carry out the action of a subscription that is due, if any."""

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
