"""Identities of clients, and the credentials and errors of token checkers (twisted.cred)."""

from __future__ import annotations

from msgspec import Struct
from twisted.cred.error import UnauthorizedLogin
from zope.interface import Attribute, Interface, implementer

from durable_streams_tw.auth.grants import Grants


class Identity(Struct, frozen=True):
    """Authenticated client.

    ``name`` is the key of its rate limit; ``expires_at`` is when its token expires, in seconds
    since the Unix epoch, None for never.
    """

    name: str
    grants: Grants
    expires_at: float | None = None


class IBearerToken(Interface):
    """Bearer token (RFC 6750) as credentials of twisted.cred.

    An `ICredentialsChecker` for these returns an `Identity` as the avatar id. It fails with
    `twisted.cred.error.UnauthorizedLogin` for an unknown token, and with `CheckerUnavailable` if
    it cannot decide at the moment. The reason is sent to the client only if the error is a
    `Rejected`.
    """

    token = Attribute("The token: visible ASCII characters.")


@implementer(IBearerToken)
class BearerToken:
    """Bearer token of a request."""

    __slots__ = ("token",)

    def __init__(self, token: str) -> None:
        self.token = token


class Rejected(UnauthorizedLogin):
    """Error of a checker for a token that it rejects. The message is sent to the client."""


class CheckerUnavailable(Exception):
    """Error of a checker that cannot decide at the moment, as its issuer does not respond.

    The message is sent to the client, ``retry_after`` (seconds) as Retry-After.
    """

    def __init__(self, message: str, retry_after: int = 5) -> None:
        super().__init__(message)
        self.retry_after = retry_after
