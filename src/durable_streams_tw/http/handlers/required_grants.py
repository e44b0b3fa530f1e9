"""Grants that each request requires.

Paths, fork headers and bodies are parsed by the functions that the handlers use, so that
authorization and execution cannot disagree on the meaning of a request.
"""

from __future__ import annotations

from typing import Final

from msgspec import Struct

from durable_streams_tw.auth.grants import Grants, Verb
from durable_streams_tw.protocol import headers, paths
from durable_streams_tw.protocol.streams import parsing
from durable_streams_tw.protocol.streams.parsing import HeaderMap
from durable_streams_tw.protocol.subscriptions import parsing as subscription_parsing
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

#: Control resources whose credential is a wake token.
WAKE_KINDS: Final = {
    ControlResource.CALLBACK: Kind.WEBHOOK,
    ControlResource.ACK: Kind.PULL,
    ControlResource.RELEASE: Kind.PULL,
}


class Coverage(Struct, frozen=True):
    """Streams of a subscription: all that match a glob, and some by name."""

    pattern: str | None
    streams: tuple[str, ...] = ()

    def allowed(self, grants: Grants) -> bool:
        """Return whether the grants include read and subscribe on all of the streams."""
        for verb in (Verb.READ, Verb.SUBSCRIBE):
            if not all(grants.allow(verb, name) for name in self.streams):
                return False
            if self.pattern is not None and not grants.allow_every(verb, parse_glob(self.pattern)):
                return False
        return True


def missing_for_stream(
    grants: Grants, method: bytes, path: bytes, request_headers: HeaderMap, root: bytes
) -> str | None:
    """Return which grant a request for a stream lacks, None if it has all.

    ``path`` is the raw path after ``root``. An unknown method requires no grant: the handler
    refuses it. Raise `Refused` for a malformed request.
    """
    verb = _VERBS.get(method)
    if verb is None:
        return None
    if not grants.allow(verb, paths.parse_stream_path(path)):
        return f"the request needs the grant {verb.value} on the stream"
    if verb is Verb.CREATE and headers.STREAM_FORKED_FROM in request_headers:
        fork = parsing.parse_fork(request_headers, root)
        if fork is not None and not grants.allow(Verb.READ, fork.source):
            return "a fork needs the grant read on its source"
    return None


def missing_for_subscription(grants: Grants, body: bytes) -> str | None:
    """Return which grant is missing to create the subscription in a PUT body, None if none is.

    Raise `Refused` for a malformed body.
    """
    command = subscription_parsing.parse_subscribe("-", body)
    if not Coverage(command.config.pattern, command.streams).allowed(grants):
        return "a subscription needs the grants read and subscribe on every stream it can match"
    wake_stream = command.config.wake_stream
    if wake_stream is not None and not grants.allow(Verb.APPEND, wake_stream):
        return "a subscription needs the grant append on its wake stream"
    return None


def missing_for_links(grants: Grants, body: bytes) -> str | None:
    """Return which grant is missing to link the streams in a POST body, None if none is.

    Raise `Refused` for a malformed body.
    """
    streams = subscription_parsing.parse_link_streams("-", body).streams
    if Coverage(None, tuple(streams)).allowed(grants):
        return None
    return "a subscription needs the grants read and subscribe on every stream it names"


def is_public(path: ControlPath, method: bytes) -> bool:
    """Return whether a control request needs no token: receivers fetch the signing keys."""
    return path.resource is ControlResource.KEYS and method in (b"GET", b"HEAD")
