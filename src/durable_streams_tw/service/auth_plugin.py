"""Plugin class of the kinds of ``--auth``, the only part that Twisted imports in advance."""

from __future__ import annotations

from typing import Any

from twisted.cred.strcred import ICheckerFactory
from twisted.plugin import IPlugin
from twisted.python.reflect import namedAny
from zope.interface import implementer


@implementer(ICheckerFactory, IPlugin)
class LazyCheckerFactory:
    """Kind of checker that is imported on first use.

    ``target`` is the dotted name of a function that takes the argument string and returns the
    checker or raises `strcred.InvalidAuthArgumentString`.
    """

    def __init__(self, kind: str, target: str, form: str, description: str) -> None:
        self.authType = kind
        self.argStringFormat = form
        self.authHelp = description
        self._target = target

    @property
    def credentialInterfaces(self) -> tuple[Any, ...]:
        """Credential interfaces of the checkers."""
        from durable_streams_tw.auth.identities import IBearerToken

        return (IBearerToken,)

    def generateChecker(self, argstring: str) -> Any:
        """Return the checker for an argument string."""
        return namedAny(self._target)(argstring)
