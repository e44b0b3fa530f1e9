"""Grants: permissions for verbs on streams.

A grant is a path and a set of verbs. The path ``jobs`` covers the stream ``jobs`` and every stream
below it (``jobs/1``, ``jobs/a/b``; not ``jobs2``), ``jobs/`` only those below it, the empty path
all streams. Paths are compared after percent-decoding, by whole segments. Everything that no grant
covers is denied.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import Enum
from typing import Any, Final

import msgspec
from msgspec import Struct

from durable_streams_tw.auth.limits import MAX_GRANTS
from durable_streams_tw.protocol.errors import Refused
from durable_streams_tw.protocol.paths import check_stream_path, is_reserved
from durable_streams_tw.protocol.subscriptions.globs import MANY, Glob


class Verb(Enum):
    """Permissions that a grant can hold.

    APPEND includes closing; CREATE does not include appending; LIST and METRICS are for the
    resources below ``/-/``.
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
    """Verbs for the streams that a path covers."""

    path: str
    verbs: frozenset[Verb]


class MalformedGrants(Exception):
    """Error in a list of grants. The message names the entry."""


class Grants:
    """Grants of one client. ``Grants()`` allows nothing."""

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
        """Return whether a verb is granted on the stream of a (decoded) name."""
        below = self._below.get(verb)
        if below is None:
            return False
        # Names never end with a slash, so a name that begins with "jobs/" is below "jobs".
        return name.startswith(below) or name in self._exactly[verb]

    def allow_every(self, verb: Verb, glob: Glob) -> bool:
        """Return whether one grant covers every stream that could ever match a glob.

        Globs that only several grants cover together are not allowed.
        """
        return any(verb in grant.verbs and _covers(grant.path, glob) for grant in self.all)

    def allow_below(self, verb: Verb, prefix: str) -> bool:
        """Return whether a verb is granted on every stream whose name begins with ``prefix``.

        The prefix may end within a segment.
        """
        below = self._below.get(verb)
        return below is not None and prefix.startswith(below)

    def allow_somewhere(self, verb: Verb) -> bool:
        """Return whether a verb is granted on any stream."""
        return verb in self._below


def _covers(path: str, glob: Glob) -> bool:
    if not path:
        return True
    granted = path.removesuffix("/").split("/")
    if glob[: len(granted)] != tuple(granted):
        # The glob is shorter, has another name, or a wildcard within the granted segments.
        return False
    # After the slash a segment has to follow, and ** matches the empty path too.
    return not path.endswith("/") or any(part != MANY for part in glob[len(granted) :])


class _Grant(Struct, forbid_unknown_fields=True):
    path: str
    verbs: list[str]


def grants_of(value: Any, *, strict: bool) -> Grants:
    """Return the grants of a parsed JSON or TOML value: ``[{"path": "jobs", "verbs": ["read"]}]``.

    With ``strict``, unknown verbs are errors; without it they grant nothing, as an issuer may know
    newer ones. Raise `MalformedGrants`.
    """
    try:
        given = msgspec.convert(value, list[_Grant])
    except msgspec.ValidationError as error:
        raise MalformedGrants(f"grants: {error}") from None
    except RecursionError:
        raise MalformedGrants("grants: nested too deeply") from None
    if len(given) > MAX_GRANTS:
        raise MalformedGrants(f"grants: more than {MAX_GRANTS} entries")
    return Grants([_grant(grant, strict) for grant in given])


def _grant(given: _Grant, strict: bool) -> Grant:
    path = given.path
    if path:
        name = path.removesuffix("/")
        try:
            check_stream_path(name)
        except Refused as refused:
            raise MalformedGrants(f"grants: {path!r}: {refused.refusal.detail}") from None
        if is_reserved(name):
            raise MalformedGrants(f"grants: {path!r}: paths below __ds are reserved")
    unknown = [verb for verb in given.verbs if verb not in VERBS]
    if strict and unknown:
        known = ", ".join(VERBS)
        raise MalformedGrants(f"grants: unknown verb {unknown[0]!r}; known verbs: {known}")
    return Grant(path, frozenset([VERBS[verb] for verb in given.verbs if verb in VERBS]))
