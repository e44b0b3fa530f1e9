"""Tests of `durable_streams_tw.auth.jwts` and `durable_streams_tw.auth.jwks` (RFC 8725)."""

from __future__ import annotations

import hashlib
import hmac
import json
from typing import Any

from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from durable_streams_tw.auth import jwts
from durable_streams_tw.auth.grants import Verb
from durable_streams_tw.auth.identities import Identity
from durable_streams_tw.auth.jwks import MalformedKeySet, read_key_set
from durable_streams_tw.auth.jwts import InvalidToken, TokenRequirements, UnknownKey
from tests.auth.issuer import AUDIENCE, ISSUER, NOW, jwk, key_set, part, private, token

EXPECTED = TokenRequirements(ISSUER, AUDIENCE)


def check(text: str, *keys: str | dict[str, Any], now: float = NOW) -> Identity:
    """Return the identity of a token."""
    return jwts.identity(text, EXPECTED, read_key_set(key_set(*(keys or ("p256",)))), now)


class GoodTests(SynchronousTestCase):
    """Tokens that are accepted."""

    def test_algorithms(self) -> None:
        """Each algorithm verifies with its key."""
        for name in ("rsa", "p256", "p384", "ed"):
            who = check(token(name), "rsa", "p256", "p384", "ed")
            self.assertEqual(who.name, f"{ISSUER} ann")
            self.assertEqual(who.expires_at, NOW + 300)
            self.assertTrue(who.grants.allow(Verb.READ, "jobs/1"))
        for algorithm in ("RS384", "RS512", "PS256", "PS384", "PS512"):
            check(token("rsa", {"alg": algorithm}), "rsa")

    def test_types(self) -> None:
        """The types of RFC 7519 and RFC 9068 are allowed, and none."""
        for kind in (None, "JWT", "jwt", "at+jwt", "application/at+JWT"):
            check(token(header={"typ": kind}))

    def test_without_a_name(self) -> None:
        """A token without a kid is accepted if only one key fits."""
        check(token(header={"kid": None}), "p256", "rsa")

    def test_audiences(self) -> None:
        """One audience of several is enough."""
        check(token(aud=["other", AUDIENCE]))

    def test_foreign_hints_are_not_followed(self) -> None:
        """Keys and URLs in the token's header are ignored."""
        evil = "https://evil.example/keys"
        check(token(header={"jku": evil, "x5u": evil, "x5c": ["AAAA"], "jwk": jwk("ed")}))

    def test_without_grants(self) -> None:
        """A token without grants is valid and allows nothing."""
        who = check(token(grants=None))
        self.assertFalse(who.grants.allow(Verb.READ, "jobs"))


class BadTests(SynchronousTestCase):
    """Tokens that are refused."""

    def refused(self, text: str, *keys: str | dict[str, Any], now: float = NOW) -> None:
        """Check that a token is refused, and that the message holds no part of it."""
        error = self.assertRaises(InvalidToken, check, text, *keys, now=now)
        self.assertNotIn(text[:20] or "-", str(error))

    def test_none(self) -> None:
        """Unsigned tokens are refused, however the algorithm is spelled."""
        payload = token().split(".")[1]
        algorithms: tuple[Any, ...] = (
            "none",
            "None",
            "NONE",
            "nOnE",
            "",
            None,
            0,
            [],
            {},
            ["ES256"],
        )
        for algorithm in algorithms:
            for signature in ("", "AAAA"):
                head = part({"alg": algorithm, "kid": "p256"})
                self.refused(f"{head}.{payload}.{signature}")
        self.refused(f"{part({'kid': 'p256'})}.{payload}.AAAA")

    def test_confusion(self) -> None:
        """A public key is not accepted as the secret of an HMAC (algorithm confusion)."""
        payload = token("rsa").split(".")[1]
        public = private("rsa").public_key()
        secrets = [
            public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo),
            public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo),
            json.dumps(jwk("rsa")).encode(),
            b"",
        ]
        for algorithm, digest in (("HS256", hashlib.sha256), ("HS512", hashlib.sha512)):
            for secret in secrets:
                signed = f"{part({'alg': algorithm, 'kid': 'rsa'})}.{payload}"
                mac = hmac.new(secret, signed.encode(), digest).digest()
                self.refused(f"{signed}.{part(mac)}", "rsa")

    def test_other_algorithms_of_a_key(self) -> None:
        """A key verifies only its own algorithm."""
        self.refused(token("rsa", {"alg": "PS256"}), jwk("rsa", alg="RS256"))
        self.refused(token("rsa", {"alg": "RS512"}), jwk("rsa", alg="RS256"))
        self.refused(token("p384", {"kid": "p256"}), "p256", "p384")
        _, payload, signature = token("p256").split(".")
        self.refused(f"{part({'alg': 'ES384', 'kid': 'p256'})}.{payload}.{signature}", "p256")

    def test_other_keys(self) -> None:
        """A signature by another key is refused under a known kid."""
        self.refused(token("p256-evil", {"kid": "p256"}), "p256")
        self.refused(token("ed-evil", {"kid": "ed"}), "ed")
        self.assertRaises(UnknownKey, check, token("p256-evil"), "p256")
        self.refused(token("p256-evil", {"kid": None}), "p256")
        # Keys are not tried one after the other.
        self.assertRaises(UnknownKey, check, token("p256", {"kid": None}), "p256", "p256-second")

    def test_names_of_keys(self) -> None:
        """A kid that names no key is refused, and never used as a path or URL."""
        for kid in (
            "../../../../dev/null",
            "' OR 1=1 --",
            "https://evil.example/key",
            "p256\x00",
            "P256",
            "*",
            "",
            "k" * 300,
        ):
            self.refused(token("p256", {"kid": kid}))
        payload = token().split(".")[1]
        others: tuple[Any, ...] = (0, True, [], {}, ["p256"], {"p256": 1})
        for kid in others:
            self.refused(f"{part({'alg': 'ES256', 'kid': kid})}.{payload}.AAAA")

    def test_critical_extensions(self) -> None:
        """Tokens with critical extensions are refused."""
        headers: tuple[dict[str, Any], ...] = (
            {"crit": ["x"], "x": 1},
            {"crit": []},
            {"b64": False, "crit": ["b64"]},
        )
        for header in headers:
            _, payload, signature = token().split(".")
            head = part({"alg": "ES256", "kid": "p256", **header})
            self.refused(f"{head}.{payload}.{signature}")

    def test_other_kinds(self) -> None:
        """Tokens with another typ are refused."""
        for kind in ("ds-wake+jwt", "logout+jwt", "dpop+jwt", "secevent+jwt", "JWE", "x"):
            self.refused(token(header={"typ": kind}))
        payload = token().split(".")[1]
        others: tuple[Any, ...] = (1, [], {}, True)
        for kind in others:
            self.refused(f"{part({'alg': 'ES256', 'kid': 'p256', 'typ': kind})}.{payload}.AA")

    def test_forms(self) -> None:
        """Malformed tokens are refused: wrong parts, padding, size, nesting."""
        good = token()
        head, payload, signature = good.split(".")
        deep = b"[" * 4000
        for text in (
            "",
            ".",
            "..",
            "a.b.c",
            good + "=",
            good + ".",
            f"{head}.{payload}",
            f"{head}.{payload}.",
            f"{good}.x.y",
            f" {good}",
            good + "\n",
            good.replace(".", ".\n"),
            f"{head}.{payload}.{signature[:-1]}",
            f"{part(deep)}.{payload}.{signature}",
            f"{part(b'null')}.{payload}.{signature}",
            f"{part(b'{')}.{payload}.{signature}",
            f"{part(b'9' * 5000)}.{payload}.{signature}",
            "a" * 9000,
            f"{'a' * 3000}.{'a' * 3000}.{'a' * 3000}",
        ):
            self.refused(text)

    def test_malleable(self) -> None:
        """A token has only one spelling."""
        head, payload, signature = token("ed").split(".")
        changed = signature[:-1] + chr(ord(signature[-1]) + 1)
        self.refused(f"{head}.{payload}.{changed}", "ed")

    def test_times(self) -> None:
        """Times are exact, except for `CLOCK_SKEW` of nbf and iat."""
        check(token(), now=NOW + 299)
        self.refused(token(), now=NOW + 300)
        check(token(nbf=NOW + 30))
        self.refused(token(nbf=NOW + 31))
        self.refused(token(iat=NOW + 31))
        ends: tuple[Any, ...] = (None, True, "1900000000", -1, 2**60, float("inf"), float("nan"))
        for value in (*ends, [], {}):
            self.refused(token(exp=value))
        for value in (True, "0", float("nan"), -1, []):
            self.refused(token(nbf=value))
            self.refused(token(iat=value))

    def test_claims(self) -> None:
        """Issuer, audience, subject and grants are compared exactly."""
        bad: tuple[tuple[str, tuple[Any, ...]], ...] = (
            ("iss", (None, "", ISSUER + "/", ISSUER.upper(), [ISSUER], {"a": 1}, True)),
            ("aud", (None, "", "streams2", AUDIENCE.upper(), [], [[AUDIENCE]], {AUDIENCE: 1}, 1)),
            ("sub", (None, "", 1, [], "a" * 300)),
            ("grants", ("read", {}, [1], [{"path": "/"}], [{"path": "..", "verbs": []}])),
        )
        for name, values in bad:
            for value in values:
                self.refused(token("p256", None, **{name: value}))

    @given(st.integers(0, 10_000), st.integers(1, 255))
    def test_any_change(self, place: int, change: int) -> None:
        """A token with any character changed is refused."""
        good = token("ed")
        place %= len(good)
        other = chr((ord(good[place]) ^ change) & 0x7F)
        text = good[:place] + other + good[place + 1 :]
        if text != good:
            self.assertRaises(InvalidToken, check, text, "ed")


class KeySetTests(SynchronousTestCase):
    """`read_key_set`."""

    def test_left_out(self) -> None:
        """Unusable keys are skipped, and the others are kept."""
        bad: list[Any] = [
            {"kty": "oct", "k": "AAAA", "kid": "h", "alg": "HS256"},
            jwk("rsa1024"),
            jwk("rsa", use="enc", kid="e"),
            jwk("rsa", key_ops=["encrypt"], kid="o"),
            jwk("rsa", alg="HS256", kid="a"),
            jwk("rsa", alg="none", kid="n"),
            jwk("p256", alg="ES384", kid="c"),
            jwk("p256", crv="P-384", kid="d"),
            jwk("p256", d="AAAA", kid="p"),
            jwk("p256", x="AAAA", kid="x"),
            jwk("p256", kid=1),
            jwk("p256", kty=[], kid="k"),
            jwk("p256", crv={}, kid="l"),
            jwk("rsa", kid="twice"),
            jwk("p256", kid="twice"),
            {},
            None,
            "key",
        ]
        keys = read_key_set(json.dumps({"keys": [*bad, jwk("ed")]}).encode())
        self.assertEqual([key.kid for key in keys.keys], ["ed"])
        self.assertEqual(keys.skipped, len(bad))
        self.assertRaises(MalformedKeySet, read_key_set, json.dumps({"keys": bad}).encode())

    def test_malformed(self) -> None:
        for raw in (
            b"",
            b"{}",
            b"[]",
            b"null",
            b"\xff",
            b'{"keys": {}}',
            b'{"keys": []}',
            b"[" * 100_000,
            b'{"keys": [' + b",".join([b"{}"] * 101) + b"]}",
            key_set("ed") + b" " * 300_000,
        ):
            self.assertRaises(MalformedKeySet, read_key_set, raw)
