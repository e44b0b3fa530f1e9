"""``--auth`` as an operator meets it."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from twisted.cred import strcred
from twisted.trial.unittest import SynchronousTestCase

from durable_streams_tw.service.auth_checkers import checkers, read_jwt
from durable_streams_tw.service.configuration import ConfigurationError, load_configuration
from tests.auth.issuer import key_set, private
from tests.service.black_box import Foreground, ask, run

ANYWHERE = ("--listen", "tcp:0:interface=127.0.0.1")
CANARY = "dst_canary-of-a-token"


def trouble(*texts: str) -> str:
    """Why these ``--auth`` cannot be used."""
    try:
        checkers(load_configuration({"auth": texts}, {}, None))
    except ConfigurationError as bad:
        return str(bad)
    raise AssertionError("they can")


class StringTests(SynchronousTestCase):
    """What may be said."""

    def test_kinds(self) -> None:
        """Only what knows tokens: Twisted's own know passwords."""
        for text in ("memory:a:b", "unix", "nothing:x", "anonymous"):
            told = trouble(text)
            self.assertIn("expected one of: file, jwt", told)

    def test_files(self) -> None:
        """A sentence that names the file."""
        self.assertIn("/nowhere.toml", trouble("file:/nowhere.toml"))
        self.assertIn("expected a file name", trouble("file:"))
        path = Path(self.mktemp())
        path.write_text("[tokens.a]\n")
        self.assertIn("sha256", trouble(f"file:{path}"))

    def test_jwt(self) -> None:
        """Every part is looked at."""
        good = "issuer=https://id.example,audience=streams,jwks=https://id.example/keys"
        for argument in (
            "",
            "issuer",
            good + ",x=1",
            good + ",issuer=https://other.example",
            good + ",algorithms=HS256",
            good + ",algorithms=none",
            good + ",algorithms=",
            good.replace("streams", ""),
            "issuer=a,audience=b",
        ):
            self.assertRaises(strcred.InvalidAuthArgumentString, read_jwt, argument)
        self.assertIn("https", trouble(f"jwt:{good.replace('https', 'http')}"))

    def test_choices(self) -> None:
        """What is left out has its default; a comma can be written."""
        good = "issuer=https://id.example/a%2Cb,audience=streams,jwks=keys.json"
        expected, jwks = read_jwt(good)
        self.assertEqual((expected.issuer, jwks), ("https://id.example/a,b", "keys.json"))
        self.assertEqual((expected.claim, "RS256" in expected.algorithms), ("grants", True))
        expected, _ = read_jwt(good + ",claim=x,algorithms=ES256+EdDSA,typ=AT+JWT")
        self.assertEqual(expected.claim, "x")
        self.assertEqual(expected.algorithms, ("ES256", "EdDSA"))
        self.assertEqual(expected.types, frozenset(("at+jwt",)))


class ServiceTests(SynchronousTestCase):
    """twistd with tokens, and what it writes."""

    def setUp(self) -> None:
        self.directory = Path(self.mktemp()).resolve()
        self.directory.mkdir(parents=True)
        digest = hashlib.sha256(CANARY.encode()).hexdigest()
        (self.directory / "tokens.toml").write_text(
            f'[tokens.a]\nsha256 = "{digest}"\n'
            'grants = [{ path = "a", verbs = ["read", "create"] }]\n'
        )
        (self.directory / "keys.json").write_bytes(key_set("p256"))

    def serve(self, *options: str) -> Foreground:
        """A server with both kinds of tokens, kept on disk."""
        return Foreground(
            self.directory,
            "durable-streams",
            "--data-dir=data",
            "--auth=file:tokens.toml",
            "--auth=jwt:issuer=https://id.example,audience=streams,jwks=keys.json",
            *options,
            *ANYWHERE,
        )

    def use(self, *options: str) -> None:
        """Use it, and look for tokens in all that it writes."""
        import time

        import jwt

        claims: dict[str, Any] = {
            "iss": "https://id.example",
            "aud": "streams",
            "sub": "ann",
            "exp": int(time.time()) + 600,
            "grants": [{"path": "a", "verbs": ["append", "read"]}],
        }
        good = jwt.encode(claims, private("p256"), "ES256", headers={"kid": "p256"})
        bad = jwt.encode({**claims, "sub": "x"}, private("evil"), "EdDSA", headers={"kid": "e"})
        plain = {"Content_Type": "text/plain"}
        with self.serve(*options) as server:
            for token, method, status in (
                (None, "PUT", 401),
                ("dst_wrong", "PUT", 401),
                (CANARY, "PUT", 201),
                (CANARY, "POST", 403),
                (good, "POST", 204),
                (good, "DELETE", 403),
                (bad, "POST", 401),
                (good + "x", "POST", 401),
                (CANARY, "GET", 200),
                (good, "GET", 200),
            ):
                header = dict(plain)
                if token is not None:
                    header["Authorization"] = f"Bearer {token}"
                body = b"x" if method == "POST" else b""
                told = ask(server.port, method, "a", body, **header)
                self.assertEqual(told[0], status, (token, method, told))
                self.assertNotIn(b"canary", told[1])
            server.stop()
        self.assertNotIn("Traceback", server.log)
        written = server.log.encode()
        written += b"".join(
            [path.read_bytes() for path in self.directory.rglob("*") if path.is_file()]
        )
        for token in (CANARY, good, bad, good.split(".")[1], bad.split(".")[1]):
            self.assertNotIn(token.encode(), written)

    def test_fast(self) -> None:
        """At the fast door."""
        self.use()

    def test_web(self) -> None:
        """At twisted.web's."""
        self.use("--no-fast-channel")

    def test_unusable(self) -> None:
        """A sentence, and no start."""
        result = run(self.directory, "-n", "--pidfile=", "durable-streams", "--auth=file:none")
        self.assertEqual(result.returncode, 1)
        self.assertIn("--auth 'file:none': ", result.stderr)
        self.assertNotIn("Traceback", result.stdout + result.stderr)
