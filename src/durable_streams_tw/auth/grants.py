"""Grants: what a client may do, and with which streams.

A grant is a path and some verbs. The path ``jobs`` stands for the stream ``jobs`` and for every
stream below it, ``jobs/1`` or ``jobs/a/b``, never for ``jobs2``; ``jobs/`` for those below it
alone; the empty one for all streams. Paths are compared as names, behind percent-decoding, by
whole segments. Nothing is granted that is not written down.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import Enum
from typing import Any, Final

import msgspec
from msgspec import Struct

from durable_streams_tw.auth.limits import MAX_GRANTS
from durable_streams_tw.protocol.errors import Refused
from durable_streams_tw.protocol.paths import check_name, is_reserved
from durable_streams_tw.protocol.subscriptions.globs import MANY, Glob


class Verb(Enum):
    """What can be granted.

    APPEND closes too; CREATE says nothing of a stream that is there; LIST and METRICS are for
    what stands below ``/-/``.
    """

    READ = "read"
    APPEND = "append"
    CREATE = "create"
    DELETE = "delete"
    SUBSCRIBE = "subscribe"
    LIST = "list"
    METRICS = "metrics"


VERBS: Final = {verb.value: verb for verb in Verb}


class Grant(Struct, frozen=True):
    """Some verbs for the streams that a path stands for."""

    path: str
    verbs: frozenset[Verb]


class MalformedGrants(Exception):
    """What should be grants is none; the message is a sentence."""


class Grants:
    """All that one client is granted.

    ``Grants()`` is nothing at all.
    """

    __slots__ = ("_below", "_exactly", "all")

    def __init__(self, grants: Iterable[Grant] = ()) -> None:
        self.all = tuple(grants)
        self._exactly: dict[Verb, frozenset[str]] = {}
        self._below: dict[Verb, tuple[str, ...]] = {}
        for verb in Verb:
            paths = [grant.path for grant in self.all if verb in grant.verbs]
            if paths:
                self._exactly[verb] = frozenset(paths)
                self._below[verb] = tuple(
                    [path if path.endswith("/") or not path else path + "/" for path in paths]
                )

    def allow(self, verb: Verb, name: str) -> bool:
        """Whether this may be done with the stream of a (decoded) name."""
        below = self._below.get(verb)
        if below is None:
            return False
        # A name never ends with a slash, so what begins with "jobs/" is below "jobs".
        return name.startswith(below) or name in self._exactly[verb]

    def allow_every(self, verb: Verb, glob: Glob) -> bool:
        """Whether this may be done with every stream that could ever match a glob.

        One grant has to cover it alone; what only several would cover together is not allowed.
        """
        return any(verb in grant.verbs and _covers(grant.path, glob) for grant in self.all)

    def allow_below(self, verb: Verb, prefix: str) -> bool:
        """Whether this may be done with every stream whose name begins with some text, which may
        end within a segment."""
        below = self._below.get(verb)
        return below is not None and prefix.startswith(below)

    def allow_somewhere(self, verb: Verb) -> bool:
        """Whether there is any stream with which this may be done."""
        return verb in self._below


def _covers(path: str, glob: Glob) -> bool:
    if not path:
        return True
    granted = path.removesuffix("/").split("/")
    if glob[: len(granted)] != tuple(granted):
        # Shorter, another name, or a wildcard where a name would have to be.
        return False
    # Behind a slash something has to follow, and ** may stand for nothing.
    return not path.endswith("/") or any(part != MANY for part in glob[len(granted) :])


class _Grant(Struct, forbid_unknown_fields=True):
    path: str
    verbs: list[str]


def grants_of(value: Any, *, strict: bool) -> Grants:
    """The grants in a value as JSON or TOML gives it: ``[{"path": "jobs", "verbs": ["read"]}]``.

    ``strict`` refuses verbs that do not exist; otherwise they grant nothing, for an issuer may
    know newer ones. Raises `MalformedGrants`.
    """
    try:
        given = msgspec.convert(value, list[_Grant])
    except msgspec.ValidationError as error:
        raise MalformedGrants(f"grants: {error}") from None
    except RecursionError:
        raise MalformedGrants("grants: nested too deeply") from None
    if len(given) > MAX_GRANTS:
        raise MalformedGrants(f"grants: there are more than {MAX_GRANTS}")
    return Grants([_grant(grant, strict) for grant in given])


def _grant(given: _Grant, strict: bool) -> Grant:
    path = given.path
    if path:
        name = path.removesuffix("/")
        try:
            check_name(name)
        except Refused as refused:
            raise MalformedGrants(f"grants: {path!r}: {refused.refusal.detail}") from None
        if is_reserved(name):
            raise MalformedGrants(f"grants: {path!r}: names below __ds are no streams")
    unknown = [verb for verb in given.verbs if verb not in VERBS]
    if strict and unknown:
        known = ", ".join(VERBS)
        raise MalformedGrants(f"grants: {unknown[0]!r} is no verb; there are {known}")
    return Grant(path, frozenset([VERBS[verb] for verb in given.verbs if verb in VERBS]))
