"""Who a client is, once its token has been checked."""

from __future__ import annotations

from msgspec import Struct
from twisted.cred.error import UnauthorizedLogin
from zope.interface import Attribute, Interface, implementer

from durable_streams_tw.auth.grants import Grants


class Identity(Struct, frozen=True):
    """A client that is known.

    ``name`` tells clients apart where rates are counted; ``expires_at`` is when its token ends,
    in seconds since 1970, None for never.
    """

    name: str
    grants: Grants
    expires_at: float | None = None


class IBearerToken(Interface):
    """Credentials of twisted.cred: a token that whoever has it may use (RFC 6750).

    A checker that takes these (`ICredentialsChecker`) answers with an `Identity` as its avatar
    id, and fails with `twisted.cred.error.UnauthorizedLogin` for a token that it does not know,
    with `CannotTell` where it cannot tell at the moment. A client is told why only in the words
    of a `Rejected`.
    """

    token = Attribute("The token, as text of visible ASCII characters.")


@implementer(IBearerToken)
class BearerToken:
    """A token that has come with a request."""

    __slots__ = ("token",)

    def __init__(self, token: str) -> None:
        self.token = token


class Rejected(UnauthorizedLogin):
    """A token is not known; the message is a sentence for whoever has sent it."""


class CannotTell(Exception):
    """A checker cannot tell at the moment: what it would have to ask does not answer.

    ``retry_after`` is in seconds.
    """

    def __init__(self, sentence: str, retry_after: int = 5) -> None:
        super().__init__(sentence)
        self.retry_after = retry_after
