"""The kinds of ``--auth``, by name: this is all that Twisted's plugin system imports of them."""

from __future__ import annotations

from typing import Any

from twisted.cred.strcred import ICheckerFactory
from twisted.plugin import IPlugin
from twisted.python.reflect import namedAny
from zope.interface import implementer


@implementer(ICheckerFactory, IPlugin)
class LazyCheckerFactory:
    """A kind of checker that is imported when it is used.

    ``place`` is the dotted name of a function that takes the argument string and returns the
    checker, or raises `strcred.InvalidAuthArgumentString` with a sentence.
    """

    def __init__(self, kind: str, place: str, form: str, more: str) -> None:
        self.authType = kind
        self.argStringFormat = form
        self.authHelp = more
        self._place = place

    @property
    def credentialInterfaces(self) -> tuple[Any, ...]:
        """What its checkers take."""
        from durable_streams_tw.auth.identities import IBearerToken

        return (IBearerToken,)

    def generateChecker(self, argstring: str) -> Any:
        """The checker that a string describes."""
        return namedAny(self._place)(argstring)
