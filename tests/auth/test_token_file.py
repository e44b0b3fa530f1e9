"""Tests of `durable_streams_tw.auth.token_file`."""

from __future__ import annotations

import hashlib

from twisted.trial.unittest import SynchronousTestCase

from durable_streams_tw.auth.grants import Verb
from durable_streams_tw.auth.token_file import MalformedFile, TokenTable, new_token, read_table

HASH = hashlib.sha256(b"secret").hexdigest()
GRANTS = 'grants = [{ path = "jobs", verbs = ["read"] }]'


def table(text: str) -> TokenTable:
    """Parse a file."""
    return read_table(text.encode(), b"k" * 32)


class TokenFileTests(SynchronousTestCase):
    """`read_table`."""

    def test_found(self) -> None:
        """A token is found only by its exact text."""
        tokens = table(f'[tokens.a]\nsha256 = "{HASH}"\n{GRANTS}\n')
        who = tokens.find("secret", 0)
        assert who is not None
        self.assertEqual(who.name, "a")
        self.assertTrue(who.grants.allow(Verb.READ, "jobs/1"))
        for other in ("", "Secret", "secre", "secrets", HASH, "a", "secret\x00", "\udc80"):
            self.assertIsNone(tokens.find(other, 0), other)

    def test_expires(self) -> None:
        tokens = table(f'[tokens.a]\nsha256 = "{HASH}"\nexpires = 1970-01-01T00:01:40Z\n{GRANTS}\n')
        self.assertIsNotNone(tokens.find("secret", 99))
        self.assertIsNone(tokens.find("secret", 100))

    def test_empty(self) -> None:
        self.assertEqual(len(table("")), 0)
        self.assertIsNone(table("[tokens]\n").find("secret", 0))

    def test_malformed(self) -> None:
        """The message names the place of each error."""
        good = f'sha256 = "{HASH}"\n{GRANTS}\n'
        for text, told in (
            ("x = ", "TOML"),
            ("token = 1\n", "'token'"),
            ("tokens = 1\n", "tokens"),
            ("[[tokens.a]]\n" + good, "tokens.a"),
            ("[tokens.a]\n" + GRANTS, "sha256"),
            (f'[tokens.a]\nsha256 = "{HASH.upper()}"\n{GRANTS}', "sha256"),
            (f'[tokens.a]\nsha256 = "{HASH[:-1]}"\n{GRANTS}', "sha256"),
            (f'[tokens.a]\nsha256 = "{HASH}"\n', "grants"),
            (f'[tokens.a]\nsha256 = "{HASH}"\ngrants = ["read"]\n', "grants"),
            (f"[tokens.a]\nsecret = 1\n{good}", "'secret'"),
            (f"[tokens.a]\nexpires = 2030-01-01T00:00:00\n{good}", "zone"),
            (f"[tokens.a]\nexpires = 2030-01-01\n{good}", "zone"),
            (f"[tokens.a]\nexpires = true\n{good}", "zone"),
            (f"[tokens.a]\n{good}[tokens.b]\n{good}", "same token"),
        ):
            error = self.assertRaises(MalformedFile, table, text)
            self.assertIn(told, str(error), text)
        self.assertRaises(MalformedFile, read_table, b"\xff", b"k")

    def test_new(self) -> None:
        """A new token holds all of its random bytes in visible characters."""
        self.assertEqual(new_token(b"\x00" * 32), "dst_" + "A" * 43)
        self.assertNotEqual(new_token(b"\x00" * 31 + b"\x01"), new_token(b"\x00" * 32))
