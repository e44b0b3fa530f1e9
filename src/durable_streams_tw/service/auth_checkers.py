"""``--auth`` strings become checkers of tokens, through Twisted's plugins.

Twisted has a ``file`` of its own, for passwords; so only kinds that know bearer tokens count.
"""

from __future__ import annotations

import re
from typing import Any, Final

from twisted.cred import strcred

from durable_streams_tw import clocks
from durable_streams_tw.auth.identities import IBearerToken
from durable_streams_tw.auth.jwks import ALGORITHMS
from durable_streams_tw.auth.jwts import TokenRequirements
from durable_streams_tw.service.configuration import Configuration

_KEYS: Final = frozenset(("issuer", "audience", "jwks", "claim", "algorithms", "typ"))


def checkers(configuration: Configuration) -> tuple[Any, ...]:
    """The checkers that the settings ask for. Raises `ConfigurationError`."""
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
    raise strcred.InvalidAuthType(f"is of no kind that knows tokens; there are: {names}")


def file_tokens(argument: str) -> Any:
    """The checker of ``file:PATH``."""
    from twisted.internet import reactor

    from durable_streams_tw.auth.token_checkers import TokenFileChecker, UnusableFile

    if not argument:
        raise strcred.InvalidAuthArgumentString("names a file: file:tokens.toml")
    try:
        return TokenFileChecker(
            argument, clocks.monotonic_timers(reactor), clocks.wall_clock(reactor)
        )
    except UnusableFile as error:
        raise strcred.InvalidAuthArgumentString(str(error)) from None


def jwt_tokens(argument: str) -> Any:
    """The checker of ``jwt:issuer=...,audience=...,jwks=...``."""
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
    # As soon as there is a reactor that runs: the first client need not wait.
    running.callWhenRunning(checker.warm_up)
    return checker


def read_jwt(argument: str) -> tuple[TokenRequirements, str]:
    """What tokens have to be, and where the keys are.

    Raises `strcred.InvalidAuthArgumentString`.
    """
    given: dict[str, str] = {}
    for part in argument.split(","):
        name, equals, value = part.partition("=")
        name = name.strip()
        if not equals or name not in _KEYS:
            known = ", ".join(sorted(_KEYS))
            raise strcred.InvalidAuthArgumentString(f"has {name!r}, which is none of {known}")
        if name in given:
            raise strcred.InvalidAuthArgumentString(f"has {name} twice")
        given[name] = value.strip().replace("%2C", ",")
    for name in ("issuer", "audience", "jwks"):
        if not given.get(name):
            raise strcred.InvalidAuthArgumentString(f"needs {name}")
    algorithms: tuple[str, ...] = ALGORITHMS
    if "algorithms" in given:
        algorithms = tuple(re.split(r"[+ ]+", given["algorithms"]))
        unknown = [name for name in algorithms if name not in ALGORITHMS]
        if unknown:
            known = ", ".join(ALGORITHMS)
            raise strcred.InvalidAuthArgumentString(
                f"names the algorithm {unknown[0]!r}; there are: {known}"
            )
    claim = given.get("claim") or "grants"
    if "typ" in given:
        types: frozenset[str | None] = frozenset((given["typ"].lower(),))
        return TokenRequirements(
            given["issuer"], given["audience"], algorithms, claim, types
        ), given["jwks"]
    return TokenRequirements(given["issuer"], given["audience"], algorithms, claim), given["jwks"]
