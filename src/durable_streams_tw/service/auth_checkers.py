"""Token checkers from ``--auth`` strings, found through Twisted's plugin system.

Only plugins for bearer tokens are used: Twisted itself has a ``file`` plugin for passwords.
"""

from __future__ import annotations

import re
from typing import Any, Final

from msgspec.structs import replace
from twisted.cred import strcred

from durable_streams_tw import clocks
from durable_streams_tw.auth.identities import IBearerToken
from durable_streams_tw.auth.jwks import ALGORITHMS
from durable_streams_tw.auth.jwts import TokenRequirements
from durable_streams_tw.service.configuration import Configuration

_KEYS: Final = frozenset(("issuer", "audience", "jwks", "claim", "algorithms", "typ"))


def checkers(configuration: Configuration) -> tuple[Any, ...]:
    """Return the checkers of the ``auth`` setting. Raises `ConfigurationError`."""
    found = []
    for text in configuration["auth"]:
        try:
            found.append(_checker(text))
        except strcred.StrcredException as error:
            raise configuration.error("auth", str(error), text) from None
    return tuple(found)


def _checker(text: str) -> Any:
    kind, _, argument = text.partition(":")
    known = [
        factory
        for factory in strcred.findCheckerFactories()
        if IBearerToken in factory.credentialInterfaces
    ]
    for factory in known:
        if factory.authType == kind:
            return factory.generateChecker(argument)
    names = ", ".join(sorted({factory.authType for factory in known}))
    raise strcred.InvalidAuthType(f"unknown kind {kind!r}; expected one of: {names}")


def file_tokens(argument: str) -> Any:
    """Return the checker of ``file:PATH``."""
    from twisted.internet import reactor

    from durable_streams_tw.auth.token_checkers import TokenFileChecker, UnusableFile

    if not argument:
        raise strcred.InvalidAuthArgumentString("expected a file name, such as file:tokens.toml")
    try:
        return TokenFileChecker(
            argument, clocks.monotonic_timers(reactor), clocks.wall_clock(reactor)
        )
    except UnusableFile as error:
        raise strcred.InvalidAuthArgumentString(str(error)) from None


def jwt_tokens(argument: str) -> Any:
    """Return the checker of ``jwt:issuer=...,audience=...,jwks=...``."""
    from twisted.internet import reactor

    from durable_streams_tw.auth.jwks_sources import UnusableSource, jwks_source
    from durable_streams_tw.auth.token_checkers import JwtChecker

    expected, jwks = read_jwt(argument)
    running: Any = reactor
    try:
        fetch, name = jwks_source(jwks, reactor)
    except UnusableSource as error:
        raise strcred.InvalidAuthArgumentString(str(error)) from None
    checker = JwtChecker(
        expected, fetch, name, clocks.monotonic_timers(reactor), clocks.wall_clock(reactor)
    )
    # Fetch the keys at startup, so that the first client does not wait for them.
    running.callWhenRunning(checker.warm_up)
    return checker


def read_jwt(argument: str) -> tuple[TokenRequirements, str]:
    """Parse the argument of ``jwt:``; return the token requirements and the JWKS source.

    Raises `strcred.InvalidAuthArgumentString`.
    """
    given: dict[str, str] = {}
    for part in argument.split(","):
        name, equals, value = part.partition("=")
        name = name.strip()
        if not equals or name not in _KEYS:
            known = ", ".join(sorted(_KEYS))
            raise strcred.InvalidAuthArgumentString(
                f"unknown parameter {name!r}; expected one of: {known}"
            )
        if name in given:
            raise strcred.InvalidAuthArgumentString(f"duplicate parameter {name!r}")
        given[name] = value.strip().replace("%2C", ",")
    for name in ("issuer", "audience", "jwks"):
        if not given.get(name):
            raise strcred.InvalidAuthArgumentString(f"missing parameter {name!r}")
    algorithms: tuple[str, ...] = ALGORITHMS
    if "algorithms" in given:
        algorithms = tuple(re.split(r"[+ ]+", given["algorithms"]))
        unknown = [name for name in algorithms if name not in ALGORITHMS]
        if unknown:
            known = ", ".join(ALGORITHMS)
            raise strcred.InvalidAuthArgumentString(
                f"unknown algorithm {unknown[0]!r}; expected one of: {known}"
            )
    claim = given.get("claim") or "grants"
    expected = TokenRequirements(given["issuer"], given["audience"], algorithms, claim)
    if "typ" in given:
        expected = replace(expected, types=frozenset((given["typ"].lower(),)))
    return expected, given["jwks"]
