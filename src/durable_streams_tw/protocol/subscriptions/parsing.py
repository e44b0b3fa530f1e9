"""Parsing of control requests: JSON bodies become commands (PROTOCOL.md §6, §7).

Every function raises `Refused` with one of the protocol's problems. Unknown members of a body
are ignored (§11.1); null means absent.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any, Final, TypeVar

import msgspec
from msgspec import Meta, Struct

from durable_streams_tw.protocol import limits
from durable_streams_tw.protocol.errors import Problem, Refusal, Refused
from durable_streams_tw.protocol.paths import check_stream_path, is_reserved, parse_stream_path
from durable_streams_tw.protocol.streams.offsets import NOW, parse_offset
from durable_streams_tw.protocol.streams.preconditions import Precondition
from durable_streams_tw.protocol.subscriptions import commands
from durable_streams_tw.protocol.subscriptions.globs import parse_glob
from durable_streams_tw.protocol.subscriptions.state import Config, Kind, TokenClaims, Wake

T = TypeVar("T")

#: Refusal of a control request whose body is too large.
BODY_TOO_LARGE: Final = Refusal(
    Problem.BODY_TOO_LARGE,
    f"the body of a control request must have at most {limits.MAX_CONTROL_BODY} bytes",
)


# -- bodies ---------------------------------------------------------------------------------

_Text = Annotated[str, Meta(min_length=1)]


class _Webhook(Struct):
    url: Annotated[str, Meta(min_length=1, max_length=limits.MAX_WEBHOOK_URL)]


class _Subscribe(Struct):
    type: Kind
    pattern: str | None = None
    streams: list[_Text] | None = None
    webhook: _Webhook | None = None
    wake_stream: str | None = None
    lease_ttl_ms: (
        Annotated[int, Meta(ge=limits.MIN_LEASE_TTL_MS, le=limits.MAX_LEASE_TTL_MS)] | None
    ) = None
    description: Annotated[str, Meta(max_length=limits.MAX_DESCRIPTION)] | None = None


class _Streams(Struct):
    streams: Annotated[list[_Text], Meta(min_length=1)]


class _Claim(Struct):
    worker: Annotated[str, Meta(min_length=1, max_length=limits.MAX_DESCRIPTION)]


class _Ack(Struct):
    offset: str
    stream: str | None = None
    path: str | None = None


class _Wake(Struct):
    wake_id: Annotated[str, Meta(max_length=limits.MAX_DESCRIPTION)]
    generation: Annotated[int, Meta(ge=0, le=limits.MAX_SAFE_INTEGER)]


class _Settle(_Wake):
    acks: Annotated[list[_Ack], Meta(max_length=limits.MAX_WAKE_STREAMS)] | None = None
    done: bool | None = None


def parse_subscription_id(raw: bytes) -> str:
    """Return the subscription id of a raw path segment."""
    with _refusing_with(Problem.INVALID_REQUEST, "subscription id: "):
        name = parse_stream_path(raw)
    if len(name.encode("utf-8")) > limits.MAX_SUBSCRIPTION_ID:
        raise _invalid(f"subscription id: must have at most {limits.MAX_SUBSCRIPTION_ID} bytes")
    return name


def parse_subscribe(
    name: str, raw: bytes, precondition: Precondition | None = None
) -> commands.Subscribe:
    """Parse the body of a PUT (§6.2). The SSRF guard checks the URL later."""
    body = _decode(raw, _Subscribe)
    kind = body.type
    pattern = None if not body.pattern else body.pattern.strip("/")
    if pattern is not None:
        parse_glob(pattern)
    streams = _names(body.streams or ())
    if pattern is None and not streams:
        raise _invalid("pattern or streams is required")
    url = wake_stream = None
    if kind is Kind.WEBHOOK:
        if body.webhook is None:
            raise _invalid("a webhook subscription requires webhook.url")
        url = body.webhook.url
    else:
        if not body.wake_stream:
            raise _invalid("a pull-wake subscription requires wake_stream")
        wake_stream = _name(body.wake_stream)
        if wake_stream in streams:
            raise _invalid("a subscription must not contain its own wake stream")
    ttl = limits.DEFAULT_LEASE_TTL_MS if body.lease_ttl_ms is None else body.lease_ttl_ms
    config = Config(kind, pattern, url, wake_stream, ttl, body.description)
    return commands.Subscribe(name, config, streams, config_digest(config, streams), precondition)


def config_digest(config: Config, streams: tuple[str, ...]) -> bytes:
    """Return a hash by which configurations are compared (§6.2); ``streams`` are sorted."""
    canonical = json.dumps([*msgspec.to_builtins(config), streams], ensure_ascii=False)
    return hashlib.sha256(canonical.encode("utf-8")).digest()


def parse_link_streams(name: str, raw: bytes) -> commands.LinkStreams:
    """Parse the body of POST streams (§6.4)."""
    return commands.LinkStreams(name, _names(_decode(raw, _Streams).streams))


def parse_unlink_stream(name: str, raw_path: bytes) -> commands.UnlinkStream:
    """Parse the path of DELETE streams/:path (§6.4)."""
    with _refusing_with(Problem.INVALID_REQUEST):
        return commands.UnlinkStream(name, parse_stream_path(raw_path.strip(b"/")))


def parse_claim(name: str, raw: bytes) -> commands.Claim:
    """Parse the body of POST claim (§7.2)."""
    return commands.Claim(name, _decode(raw, _Claim).worker)


def parse_settle(
    name: str, kind: Kind, proof: TokenClaims | Refusal, raw: bytes
) -> commands.Settle:
    """Parse the body of POST callback (§7.1) or ack (§7.2)."""
    body = _decode(raw, _Settle)
    acks = tuple([_ack(ack) for ack in body.acks or ()])
    wake = Wake(body.generation, body.wake_id)
    return commands.Settle(name, kind, proof, wake, acks, body.done is True)


def parse_release(name: str, proof: TokenClaims | Refusal, raw: bytes) -> commands.Release:
    """Parse the body of POST release (§7.2)."""
    body = _decode(raw, _Wake)
    return commands.Release(name, proof, Wake(body.generation, body.wake_id))


@contextmanager
def _refusing_with(problem: Problem, prefix: str = "") -> Iterator[None]:
    """Replace the problem of a `Refused`, and put a prefix before its detail."""
    try:
        yield
    except Refused as refused:
        raise Refused(problem, prefix + refused.refusal.detail) from None


def _invalid(detail: str) -> Refused:
    return Refused(Problem.INVALID_REQUEST, detail)


def _decode(raw: bytes, kind: type[T]) -> T:
    if len(raw) > limits.MAX_CONTROL_BODY:
        raise Refused(BODY_TOO_LARGE.problem, BODY_TOO_LARGE.detail)
    try:
        # msgspec does not validate UTF-8 in members that it skips.
        text: Any = raw.decode("utf-8")
        return msgspec.json.decode(text, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise _invalid(f"the body is invalid: {error}") from None
    except RecursionError:
        raise _invalid("the body is nested too deeply") from None


def _names(given: list[str] | tuple[()]) -> tuple[str, ...]:
    names = tuple(sorted({_name(path) for path in given}))
    if len(names) > limits.MAX_EXPLICIT_STREAMS:
        raise _invalid(
            f"a subscription can have at most {limits.MAX_EXPLICIT_STREAMS} streams: use a pattern"
        )
    return names


def _name(path: str) -> str:
    name = path.strip("/")
    with _refusing_with(Problem.INVALID_REQUEST):
        check_stream_path(name)
    if is_reserved(name):
        raise _invalid("paths below __ds are reserved for control resources")
    return name


def _ack(given: _Ack) -> commands.Ack:
    path = _name(given.stream or given.path or "")
    with _refusing_with(Problem.INVALID_OFFSET):
        offset = parse_offset(given.offset)
    if offset == NOW or given.offset == "-1":
        raise Refused(
            Problem.INVALID_OFFSET,
            "the offset of an ack must be one that this server returned, not -1 or now",
        )
    return commands.Ack(path, offset)
