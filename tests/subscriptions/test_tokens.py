"""Tests of `durable_streams_tw.subscriptions.tokens` against RFC 8725."""

from __future__ import annotations

import base64
import json
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from durable_streams_tw.protocol.errors import Problem, Refusal
from durable_streams_tw.protocol.subscriptions.state import (
    Config,
    Kind,
    Subscription,
    TokenClaims,
    Wake,
)
from durable_streams_tw.subscriptions.limits import TOKEN_LIFETIME
from durable_streams_tw.subscriptions.tokens import WakeTokens
from tests.protocol.refusal_case import RefusalTestCase

SECRET = b"s" * 32
STATE = Subscription(
    2**63 + 5,
    "sub/1 ä",
    Config(Kind.PULL, "*", None, "wake", 30_000, None),
    b"",
    0,
    generation=7,
    wake_id="w_abc",
)


class TokenTests(RefusalTestCase):
    """A valid token with one change at a time."""

    def setUp(self) -> None:
        self.now = 1_800_000_000.0
        self.tokens = WakeTokens(lambda: SECRET, lambda: self.now)
        self.token = self.tokens.issue(STATE)

    def check(
        self, token: str, name: str = STATE.id, kind: Kind = Kind.PULL
    ) -> TokenClaims | Refusal:
        return self.tokens.check(token, name, kind)

    def assertInvalid(self, token: str, **kwargs: Any) -> None:
        self.assertRefusal(Problem.TOKEN_INVALID, self.check(token, **kwargs))

    def forge(self, header: dict[str, Any] | None = None, key: Any = SECRET, **claims: Any) -> str:
        """Return a signed token with changed claims; None removes a claim."""
        payload = {**self.claims(), **claims}
        payload = {name: value for name, value in payload.items() if value is not None}
        head = {"typ": "ds-wake+jwt", "alg": "HS256", **(header or {})}
        text = json.dumps(payload).encode()
        return jwt.PyJWS().encode(text, key, algorithm=head["alg"], headers=head)

    def claims(self) -> dict[str, Any]:
        text = base64.urlsafe_b64decode(self.token.split(".")[1] + "==")
        claims: dict[str, Any] = json.loads(text)
        return claims

    def test_good(self) -> None:
        self.assertEqual(self.check(self.token), TokenClaims(STATE.number, Wake(7, "w_abc")))
        self.assertEqual(self.check(self.forge()), self.check(self.token))

    def test_scope(self) -> None:
        """A token is valid for one subscription (§3.8 subject) and one use (§3.9 audience)."""
        self.assertInvalid(self.token, name="other")
        self.assertInvalid(self.token, kind=Kind.WEBHOOK)
        hook = replace(STATE, config=replace(STATE.config, kind=Kind.WEBHOOK))
        token = self.tokens.issue(hook)
        self.assertInvalid(token)
        self.assertIsInstance(self.check(token, kind=Kind.WEBHOOK), TokenClaims)

    def test_expiry(self) -> None:
        self.now += TOKEN_LIFETIME - 1
        self.assertIsInstance(self.check(self.token), TokenClaims)
        self.now += 1
        self.assertRefusal(Problem.TOKEN_EXPIRED, self.check(self.token))
        # The reason is not disclosed to clients without a valid signature.
        self.assertInvalid(self.token[:-4] + "AAAA")

    def test_renewal(self) -> None:
        """A token is renewed in the second half of its lifetime, for the same wake."""
        self.assertIsNone(self.tokens.renew(self.token, STATE))
        self.now += TOKEN_LIFETIME / 2
        renewed = self.tokens.renew(self.token, STATE)
        assert renewed is not None
        self.now += TOKEN_LIFETIME / 2
        self.assertEqual(self.check(renewed), TokenClaims(STATE.number, Wake(7, "w_abc")))
        self.assertIsNone(self.tokens.renew(self.token, STATE))

    def test_algorithm(self) -> None:
        """The algorithm of the header is not used, and "none" is refused (§2.1, §3.1)."""
        head, payload, _ = self.token.split(".")
        for alg in ("none", "None", "NONE", "nOnE", ""):
            text = json.dumps({"alg": alg, "typ": "ds-wake+jwt"}).encode()
            unsigned = base64.urlsafe_b64encode(text).rstrip(b"=").decode()
            for end in ("", "AAAA"):
                self.assertInvalid(f"{unsigned}.{payload}.{end}")
        self.assertInvalid(f"{head}.{payload}.")
        for alg in ("HS384", "HS512"):
            self.assertInvalid(self.forge({"alg": alg}, key=SECRET * 2))
        key = Ed25519PrivateKey.generate()
        self.assertInvalid(self.forge({"alg": "EdDSA"}, key=key))

    def test_other_secrets(self) -> None:
        """Tokens of another server's secret, or a weak one, are refused (§3.5)."""
        for key in (b"t" * 32, b"secret" * 6, b"\x00" * 32):
            self.assertInvalid(self.forge(key=key))

    def test_type(self) -> None:
        """Other JWTs of the same secret are refused by their typ (§2.8, §3.11)."""
        for typ in ("JWT", "at+jwt", "DS-WAKE+JWT", "application/ds-wake+jwt"):
            self.assertInvalid(self.forge({"typ": typ}))
        self.assertInvalid(self.forge({"typ": None}))

    def test_headers(self) -> None:
        """Headers with keys or URLs are ignored, and critical ones refused (§3.10)."""
        tempting = {"kid": "../../dev/null", "jku": "https://evil.example/", "x5u": "file:///x"}
        for name, value in tempting.items():
            self.assertInvalid(self.forge({name: value}))
        self.assertInvalid(self.forge({"crit": ["exp"], "exp": 1}))

    def test_claims(self) -> None:
        """Issuer, audience and all claims are checked (§3.8, §3.9, §3.12)."""
        for name in self.claims():
            self.assertInvalid(self.forge(**{name: None}))
        audience = self.claims()["aud"]
        for changed in (
            {"iss": "other"},
            {"iss": ["durable-streams"]},
            {"aud": [audience]},
            {"aud": [audience, "other"]},
            {"aud": "durable-streams"},
            {"sub": "sub/2"},
            {"num": str(STATE.number)},
            {"num": True},
            {"num": -1},
            {"num": 2**64},
            {"gen": "7"},
            {"gen": 7.0},
            {"jti": "w"},
            {"exp": "never"},
            {"exp": 2**70},
            {"exp": self.now + 10.5},
        ):
            if changed == {"jti": "w"}:
                self.assertEqual(
                    self.check(self.forge(**changed)), TokenClaims(STATE.number, Wake(7, "w"))
                )
            else:
                self.assertInvalid(self.forge(**changed))

    def test_form(self) -> None:
        """Encrypted tokens, and other serializations and encodings, are refused (§2.4, §2.6)."""
        head, payload, end = self.token.split(".")
        for token in (
            *("", ".", "..", "...", head, f"{head}.{payload}", f"{self.token}.x", f" {self.token}"),
            *(f"{self.token}=", f"{head}.{payload}.{end}\n", self.token.replace(".", " ")),
            json.dumps({"payload": payload, "protected": head, "signature": end}),
            f"{head}.{payload}.x.{end}.y",
            "a" * 5000,
        ):
            self.assertInvalid(token)

    @given(st.text(max_size=200) | st.binary(max_size=100).map(lambda raw: raw.decode("latin-1")))
    def test_anything(self, token: str) -> None:
        self.assertInvalid(token)

    @given(st.data())
    def test_any_change(self, data: st.DataObject) -> None:
        """A token with any changed character is invalid, except for unused bits."""
        at = data.draw(st.integers(0, len(self.token) - 1))
        other = data.draw(st.sampled_from("ABCxyz019-_."))
        changed = self.token[:at] + other + self.token[at + 1 :]
        checked = self.check(changed)
        if isinstance(checked, TokenClaims):
            self.assertEqual(checked, self.check(self.token))
