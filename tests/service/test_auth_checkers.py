"""Tests of ``--auth``."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from twisted.cred import strcred
from twisted.trial.unittest import SynchronousTestCase

from durable_streams_tw.service.auth_checkers import checkers, read_jwt
from durable_streams_tw.service.configuration import ConfigurationError, load_configuration
from tests.auth.issuer import key_set, private
from tests.service.black_box import Foreground, ask, new_directory, run

ANYWHERE = ("--listen", "tcp:0:interface=127.0.0.1")
CANARY = "dst_canary-of-a-token"


def error_of(*texts: str) -> str:
    """Return the error message of invalid ``--auth`` values."""
    try:
        checkers(load_configuration({"auth": texts}, {}, None))
    except ConfigurationError as bad:
        return str(bad)
    raise AssertionError("they can")


class StringTests(SynchronousTestCase):
    """Values of ``--auth``."""

    def test_kinds(self) -> None:
        """Checkers that do not check tokens, such as those of Twisted, are refused."""
        for text in ("memory:a:b", "unix", "nothing:x", "anonymous"):
            told = error_of(text)
            self.assertIn("expected one of: file, jwt", told)

    def test_files(self) -> None:
        """An unusable token file is named in the error."""
        self.assertIn("/nowhere.toml", error_of("file:/nowhere.toml"))
        self.assertIn("expected a file name", error_of("file:"))
        path = Path(self.mktemp())
        path.write_text("[tokens.a]\n")
        self.assertIn("sha256", error_of(f"file:{path}"))

    def test_jwt(self) -> None:
        """Each parameter of ``jwt:`` is validated."""
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
        self.assertIn("https", error_of(f"jwt:{good.replace('https', 'http')}"))

    def test_parameters(self) -> None:
        """Omitted parameters have defaults, and commas can be escaped."""
        good = "issuer=https://id.example/a%2Cb,audience=streams,jwks=keys.json"
        expected, jwks = read_jwt(good)
        self.assertEqual((expected.issuer, jwks), ("https://id.example/a,b", "keys.json"))
        self.assertEqual((expected.claim, "RS256" in expected.algorithms), ("grants", True))
        expected, _ = read_jwt(good + ",claim=x,algorithms=ES256+EdDSA,typ=AT+JWT")
        self.assertEqual(expected.claim, "x")
        self.assertEqual(expected.algorithms, ("ES256", "EdDSA"))
        self.assertEqual(expected.types, frozenset(("at+jwt",)))


class ServiceTests(SynchronousTestCase):
    """twistd with tokens, and its output."""

    def setUp(self) -> None:
        self.directory = new_directory(self)
        digest = hashlib.sha256(CANARY.encode()).hexdigest()
        (self.directory / "tokens.toml").write_text(
            f'[tokens.a]\nsha256 = "{digest}"\n'
            'grants = [{ path = "a", verbs = ["read", "create"] }]\n'
        )
        (self.directory / "keys.json").write_bytes(key_set("p256"))

    def serve(self, *options: str) -> Foreground:
        """Start a server with both kinds of tokens and a data directory."""
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
        """Send requests, and search all files and output for the tokens."""
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
        """No token is written by the HTTP/1.1 engine."""
        self.use()

    def test_web(self) -> None:
        """No token is written by twisted.web."""
        self.use("--no-fast-channel")

    def test_unusable(self) -> None:
        """An unusable value prevents the start with one line."""
        result = run(self.directory, "-n", "--pidfile=", "durable-streams", "--auth=file:none")
        self.assertEqual(result.returncode, 1)
        self.assertIn("--auth 'file:none': ", result.stderr)
        self.assertNotIn("Traceback", result.stdout + result.stderr)
