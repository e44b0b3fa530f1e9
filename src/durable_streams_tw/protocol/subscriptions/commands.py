"""Control requests: JSON bodies become commands, or are refused (PROTOCOL.md §6, §7).

Every parser raises `Refused` with a problem of the protocol's own codes. What is unknown in a
body is ignored (§11.1), null means absent.
"""

from __future__ import annotations

import hashlib
import json
from enum import Enum
from typing import Annotated, Any, Final, TypeVar

import msgspec
from msgspec import Meta, Struct

from durable_streams_tw.protocol.errors import Problem, Refusal, Refused
from durable_streams_tw.protocol.limits import (
    DEFAULT_LEASE_TTL_MS,
    MAX_CONTROL_BODY,
    MAX_DESCRIPTION,
    MAX_EXPLICIT_STREAMS,
    MAX_LEASE_TTL_MS,
    MAX_SAFE_INTEGER,
    MAX_SUBSCRIPTION_ID,
    MAX_WAKE_STREAMS,
    MAX_WEBHOOK_URL,
    MIN_LEASE_TTL_MS,
)
from durable_streams_tw.protocol.offsets import NOW, Asked, parse_offset
from durable_streams_tw.protocol.paths import check_name, is_reserved, stream_name
from durable_streams_tw.protocol.preconditions import Precondition
from durable_streams_tw.protocol.subscriptions.globs import parse_glob
from durable_streams_tw.protocol.subscriptions.state import Config, Kind, Proof, Wake

T = TypeVar("T")

#: The answer to a control request whose body is too large.
BODY_TOO_LARGE: Final = Refusal(
    Problem.BODY_TOO_LARGE, f"a control request has at most {MAX_CONTROL_BODY} bytes"
)


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
    offset: Asked


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


class Result(Enum):
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
    result: Result
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


# -- bodies ---------------------------------------------------------------------------------

_Text = Annotated[str, Meta(min_length=1)]


class _Webhook(Struct):
    url: Annotated[str, Meta(min_length=1, max_length=MAX_WEBHOOK_URL)]


class _Subscribe(Struct):
    type: Kind
    pattern: str | None = None
    streams: list[_Text] | None = None
    webhook: _Webhook | None = None
    wake_stream: str | None = None
    lease_ttl_ms: Annotated[int, Meta(ge=MIN_LEASE_TTL_MS, le=MAX_LEASE_TTL_MS)] | None = None
    description: Annotated[str, Meta(max_length=MAX_DESCRIPTION)] | None = None


class _Streams(Struct):
    streams: Annotated[list[_Text], Meta(min_length=1)]


class _Claim(Struct):
    worker: Annotated[str, Meta(min_length=1, max_length=MAX_DESCRIPTION)]


class _Ack(Struct):
    offset: str
    stream: str | None = None
    path: str | None = None


class _Wake(Struct):
    wake_id: Annotated[str, Meta(max_length=MAX_DESCRIPTION)]
    generation: Annotated[int, Meta(ge=0, le=MAX_SAFE_INTEGER)]


class _Settle(_Wake):
    acks: Annotated[list[_Ack], Meta(max_length=MAX_WAKE_STREAMS)] | None = None
    done: bool | None = None


def subscription_id(raw: bytes) -> str:
    """The id in a raw path segment."""
    try:
        name = stream_name(raw)
    except Refused as refused:
        raise Refused(
            Problem.INVALID_REQUEST, f"the subscription's id: {refused.refusal.detail}"
        ) from None
    if len(name.encode("utf-8")) > MAX_SUBSCRIPTION_ID:
        raise Refused(
            Problem.INVALID_REQUEST,
            f"the subscription's id has more than {MAX_SUBSCRIPTION_ID} bytes",
        )
    return name


def subscribe(name: str, raw: bytes, asked_for: Precondition | None = None) -> Subscribe:
    """The body of a PUT (§6.2). Whether the URL may be called is not looked at here."""
    asked = _decode(raw, _Subscribe)
    kind = asked.type
    pattern = None if not asked.pattern else asked.pattern.strip("/")
    if pattern is not None:
        parse_glob(pattern)
    streams = _names(asked.streams or ())
    if pattern is None and not streams:
        raise Refused(Problem.INVALID_REQUEST, "pattern or streams has to be given")
    url = wake_stream = None
    if kind is Kind.WEBHOOK:
        if asked.webhook is None:
            raise Refused(Problem.INVALID_REQUEST, "a webhook subscription needs webhook.url")
        url = asked.webhook.url
    else:
        if not asked.wake_stream:
            raise Refused(Problem.INVALID_REQUEST, "a pull-wake subscription needs wake_stream")
        wake_stream = _name(asked.wake_stream)
        if wake_stream in streams:
            raise Refused(
                Problem.INVALID_REQUEST, "a subscription cannot be woken by its own wake stream"
            )
    ttl = DEFAULT_LEASE_TTL_MS if asked.lease_ttl_ms is None else asked.lease_ttl_ms
    config = Config(kind, pattern, url, wake_stream, ttl, asked.description)
    return Subscribe(name, config, streams, config_digest(config, streams), asked_for)


def config_digest(config: Config, streams: tuple[str, ...]) -> bytes:
    """What tells configurations apart (§6.2); ``streams`` are sorted."""
    canonical = json.dumps([*msgspec.to_builtins(config), streams], ensure_ascii=False)
    return hashlib.sha256(canonical.encode("utf-8")).digest()


def link_streams(name: str, raw: bytes) -> LinkStreams:
    """The body of POST streams (§6.4)."""
    return LinkStreams(name, _names(_decode(raw, _Streams).streams))


def unlink_stream(name: str, raw_path: bytes) -> UnlinkStream:
    """The path of DELETE streams/:path (§6.4)."""
    try:
        return UnlinkStream(name, stream_name(raw_path.strip(b"/")))
    except Refused as refused:
        raise Refused(Problem.INVALID_REQUEST, refused.refusal.detail) from None


def claim(name: str, raw: bytes) -> Claim:
    """The body of POST claim (§7.2)."""
    return Claim(name, _decode(raw, _Claim).worker)


def settle(name: str, kind: Kind, proof: Proof | Refusal, raw: bytes) -> Settle:
    """The body of POST callback (§7.1) or ack (§7.2)."""
    asked = _decode(raw, _Settle)
    acks = tuple([_ack(ack) for ack in asked.acks or ()])
    wake = Wake(asked.generation, asked.wake_id)
    return Settle(name, kind, proof, wake, acks, asked.done is True)


def release(name: str, proof: Proof | Refusal, raw: bytes) -> Release:
    """The body of POST release (§7.2)."""
    asked = _decode(raw, _Wake)
    return Release(name, proof, Wake(asked.generation, asked.wake_id))


def _decode(raw: bytes, kind: type[T]) -> T:
    if len(raw) > MAX_CONTROL_BODY:
        raise Refused(BODY_TOO_LARGE.problem, BODY_TOO_LARGE.detail)
    try:
        # The parser lets broken UTF-8 through where it only skips.
        text: Any = raw.decode("utf-8")
        return msgspec.json.decode(text, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise Refused(Problem.INVALID_REQUEST, f"the body: {error}") from None
    except RecursionError:
        raise Refused(Problem.INVALID_REQUEST, "the body is nested too deeply") from None


def _names(given: list[str] | tuple[()]) -> tuple[str, ...]:
    names = tuple(sorted({_name(path) for path in given}))
    if len(names) > MAX_EXPLICIT_STREAMS:
        raise Refused(
            Problem.INVALID_REQUEST,
            f"a subscription names at most {MAX_EXPLICIT_STREAMS} streams: use a pattern",
        )
    return names


def _name(path: str) -> str:
    name = path.strip("/")
    try:
        check_name(name)
    except Refused as refused:
        raise Refused(Problem.INVALID_REQUEST, refused.refusal.detail) from None
    if is_reserved(name):
        raise Refused(Problem.INVALID_REQUEST, "names below __ds are reserved: they are no streams")
    return name


def _ack(given: _Ack) -> Ack:
    path = _name(given.stream or given.path or "")
    try:
        offset = parse_offset(given.offset)
    except Refused as refused:
        raise Refused(Problem.INVALID_OFFSET, refused.refusal.detail) from None
    if offset == NOW or given.offset == "-1":
        raise Refused(
            Problem.INVALID_OFFSET, "an ack names an offset that this server returned, no sentinel"
        )
    return Ack(path, offset)
