"""What a request needs to be granted.

Paths, fork fields and bodies are read by the very functions that carry requests out, so a
request cannot mean one thing here and another there.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from msgspec import Struct

from durable_streams_tw.auth.grants import Grants, Verb
from durable_streams_tw.protocol import headers, paths
from durable_streams_tw.protocol.streams import parsing
from durable_streams_tw.protocol.streams.parsing import HeaderMap
from durable_streams_tw.protocol.subscriptions import parsing as subscriptions_parsing
from durable_streams_tw.protocol.subscriptions.control_paths import ControlPath, ControlResource
from durable_streams_tw.protocol.subscriptions.globs import parse_glob
from durable_streams_tw.protocol.subscriptions.state import Kind

_VERBS: Final = {
    b"GET": Verb.READ,
    b"HEAD": Verb.READ,
    b"POST": Verb.APPEND,
    b"PUT": Verb.CREATE,
    b"DELETE": Verb.DELETE,
}

#: Control resources whose credentials are the token of a wake.
WAKE_KINDS: Final = {
    ControlResource.CALLBACK: Kind.WEBHOOK,
    ControlResource.ACK: Kind.PULL,
    ControlResource.RELEASE: Kind.PULL,
}


class Coverage(Struct, frozen=True):
    """The streams that a subscription is about: all that match a glob, and some by name."""

    pattern: str | None
    streams: tuple[str, ...] = ()

    def allowed(self, grants: Grants) -> bool:
        """Whether a client may be told of all of them: it needs read and subscribe."""
        for verb in (Verb.READ, Verb.SUBSCRIBE):
            if not all(grants.allow(verb, name) for name in self.streams):
                return False
            if self.pattern is not None and not grants.allow_every(verb, parse_glob(self.pattern)):
                return False
        return True


def allowed(
    grants: Grants, method: bytes, path: bytes, header: HeaderMap, root: bytes
) -> str | None:
    """What is missing for a request for the stream at a raw path behind ``root``; None where it
    is allowed. Raises `Refused` where the request is malformed.

    A method that no stream knows needs nothing, and comes to nothing.
    """
    verb = _VERBS.get(method)
    if verb is None:
        return None
    if not grants.allow(verb, paths.stream_name(path)):
        return f"this needs {verb.value} on the stream"
    if verb is Verb.CREATE and headers.STREAM_FORKED_FROM in header:
        fork = parsing.parse_fork(header, root)
        if fork is not None and not grants.allow(Verb.READ, fork.source):
            return "a fork needs read on its source"
    return None


def subscribing(grants: Grants, body: bytes) -> str | None:
    """What is missing to make the subscription of a PUT's body; None where it is allowed.

    Raises `Refused` where the body is malformed.
    """
    asked = subscriptions_parsing.parse_subscribe("-", body)
    if not Coverage(asked.config.pattern, asked.streams).allowed(grants):
        return "a subscription needs read and subscribe on every stream that it could ever match"
    wake_stream = asked.config.wake_stream
    if wake_stream is not None and not grants.allow(Verb.APPEND, wake_stream):
        return "a subscription needs append on its wake stream"
    return None


def linking(grants: Grants, body: bytes) -> str | None:
    """What is missing to name the streams of a POST's body; None where it is allowed.

    Raises `Refused` where the body is malformed.
    """
    return naming(grants, subscriptions_parsing.parse_link_streams("-", body).streams)


def naming(grants: Grants, streams: Iterable[str]) -> str | None:
    """What is missing to name these streams in a subscription; None where it is allowed."""
    if Coverage(None, tuple(streams)).allowed(grants):
        return None
    return "a subscription needs read and subscribe on every stream that it names"


def is_open(path: ControlPath, method: bytes) -> bool:
    """Whether anybody may ask this: the public keys of webhooks, which others verify with."""
    return path.place is ControlResource.KEYS and method in (b"GET", b"HEAD")
