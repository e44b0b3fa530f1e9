"""Wake tokens: signed JWTs for one wake of one subscription (PROTOCOL.md §7.1-§7.3, §12.9).

The rules of RFC 8725: one algorithm, which the token does not choose (§3.1); a secret of full
entropy (§3.5); a dedicated ``typ`` (§3.11); issuer, subject and audience are checked, each use
has its own audience (§3.8, §3.9, §3.12); all claims are required.
"""

from __future__ import annotations

import binascii
import re
from collections.abc import Callable
from typing import Any, Final

import jwt

from durable_streams_tw.protocol.errors import Problem, Refusal
from durable_streams_tw.protocol.subscriptions.state import Kind, Subscription, TokenClaims, Wake
from durable_streams_tw.subscriptions.limits import TOKEN_LIFETIME

_ALGORITHM: Final = "HS256"
_HEADER: Final = {"alg": _ALGORITHM, "typ": "ds-wake+jwt"}
_ISSUER: Final = "durable-streams"
_AUDIENCES: Final = {
    Kind.WEBHOOK: "durable-streams:callback",
    Kind.PULL: "durable-streams:claim",
}
_REQUIRED: Final = ["aud", "exp", "gen", "iat", "iss", "jti", "num", "sub"]
# RFC 7515 §3.1, without padding: a token has one spelling.
_FORM: Final = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+")
# Far above the length of issued tokens.
_LONGEST: Final = 4096

_INVALID: Final = Refusal(
    Problem.TOKEN_INVALID, "the token was not issued by this server for this subscription"
)
_EXPIRED: Final = Refusal(Problem.TOKEN_EXPIRED, "the token has expired")
TOKEN_MISSING: Final = Refusal(
    Problem.TOKEN_INVALID,
    "the wake token is missing: send Authorization: Bearer <token>",
    ((b"WWW-Authenticate", b"Bearer"),),
)


class WakeTokens:
    """Issuer and verifier of wake tokens.

    ``secret`` returns the HMAC key, ``seconds`` the time since the Unix epoch.
    """

    def __init__(self, secret: Callable[[], bytes], seconds: Callable[[], float]) -> None:
        self._secret = secret
        self._seconds = seconds

    def issue(self, state: Subscription) -> str:
        """Return a token for the current wake of a subscription."""
        now = int(self._seconds())
        claims = {
            "iss": _ISSUER,
            "aud": _AUDIENCES[state.config.kind],
            "sub": state.id,
            "num": state.number,
            "gen": state.generation,
            "jti": state.wake_id,
            "iat": now,
            "exp": now + TOKEN_LIFETIME,
        }
        return jwt.encode(claims, self._secret(), algorithm=_ALGORITHM, headers=_HEADER)

    def check(self, token: str, name: str, kind: Kind) -> TokenClaims | Refusal:
        """Return the wake that a token proves, or a refusal."""
        claims = self._claims(token, kind)
        if isinstance(claims, Refusal):
            return claims
        number, generation, wake_id = claims["num"], claims["gen"], claims["jti"]
        if claims["sub"] != name or not (_counts(number) and _counts(generation)):
            return _INVALID
        return TokenClaims(number, Wake(generation, wake_id))

    def renew(self, token: str, state: Subscription) -> str | None:
        """Return a new token if the given one is in the second half of its lifetime."""
        claims = self._claims(token, state.config.kind)
        if isinstance(claims, Refusal) or claims["exp"] - self._seconds() > TOKEN_LIFETIME / 2:
            return None
        return self.issue(state)

    def _claims(self, token: str, kind: Kind) -> dict[str, Any] | Refusal:
        if len(token) > _LONGEST or _FORM.fullmatch(token) is None:
            return _INVALID
        try:
            # Expiry is checked below, with the clock of this class.
            whole = jwt.decode_complete(
                token,
                self._secret(),
                algorithms=[_ALGORITHM],
                audience=_AUDIENCES[kind],
                issuer=_ISSUER,
                options={
                    "require": _REQUIRED,
                    "strict_aud": True,
                    "verify_exp": False,
                    "verify_iat": False,
                    "verify_nbf": False,
                },
            )
        except (jwt.InvalidTokenError, binascii.Error, UnicodeError, RecursionError):
            return _INVALID
        claims: dict[str, Any] = whole["payload"]
        # Only the exact header of issued tokens: no key ids, no critical extensions.
        if whole["header"] != _HEADER or not _counts(claims["exp"]):
            return _INVALID
        return _EXPIRED if self._seconds() >= claims["exp"] else claims


def _counts(value: object) -> bool:
    # bool is a subclass of int.
    return type(value) is int and 0 <= value < 2**64
