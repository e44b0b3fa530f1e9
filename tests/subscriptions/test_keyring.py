"""Tests of `durable_streams_tw.subscriptions.keyring` and of signatures."""

from __future__ import annotations

import base64
import errno
import json
import os
import shutil
import stat
import tempfile
from pathlib import Path
from typing import Any
from unittest import mock

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from hypothesis import given
from hypothesis import strategies as st
from twisted.logger import LogLevel, capturedLogs, formatEvent
from twisted.trial.unittest import SynchronousTestCase

from durable_streams_tw.storage.errors import StoreUnusable
from durable_streams_tw.subscriptions import signing
from durable_streams_tw.subscriptions.keyring import KEYS_FILE, Keyring
from durable_streams_tw.subscriptions.limits import KEY_OVERLAP
from durable_streams_tw.subscriptions.signing import SigningKey


def unpadded(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def verify(body: bytes, header: str, jwks: bytes) -> bool:
    """Verify a signature as a receiver does (§7.1)."""
    parts = dict(part.split("=", 1) for part in header.split(","))
    for key in json.loads(jwks)["keys"]:
        if key["kid"] == parts["kid"]:
            public = Ed25519PublicKey.from_public_bytes(unpadded(key["x"]))
            try:
                public.verify(unpadded(parts["ed25519"]), parts["t"].encode() + b"." + body)
            except InvalidSignature:
                return False
            return True
    return False


class SigningTests(SynchronousTestCase):
    """Signatures and key sets, without a file."""

    def test_thumbprint(self) -> None:
        """The thumbprint of RFC 8037, appendix A.3, is reproduced."""
        public = unpadded("11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo")
        key = SigningKey(public, None, 0)
        self.assertEqual(key.kid, "ds_kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k")

    def test_signature(self) -> None:
        """The key of the example of RFC 8032 §7.1 signs webhook bodies."""
        key = signing.new_key(0)
        header = signing.signature(key, b'{"a":1}', 1_700_000_000)
        self.assertRegex(header, r"^t=1700000000,kid=ds_[\w-]{43},ed25519=[\w-]{86}$")
        jwks = signing.jwks([key], 0)
        self.assertTrue(verify(b'{"a":1}', header, jwks))
        self.assertFalse(verify(b'{"a":2}', header, jwks))
        self.assertFalse(verify(b'{"a":1}', header.replace("t=17", "t=18"), jwks))
        self.assertFalse(verify(b'{"a":1}', header, signing.jwks([signing.new_key(0)], 0)))

    def test_jwks(self) -> None:
        """The JWKS has public keys only (§6.5)."""
        key = signing.new_key(0)
        (published,) = json.loads(signing.jwks([key], 0))["keys"]
        expected = {"kty": "OKP", "crv": "Ed25519", "use": "sig", "alg": "EdDSA", "kid": key.kid}
        self.assertEqual(published, {**expected, "x": signing.base64url(key.public)})

    @given(st.lists(st.integers(0, 3 * KEY_OVERLAP), min_size=1, max_size=8))
    def test_rotation(self, pauses: list[int]) -> None:
        """The signing key is published before its first use, and remains published
        after its last.
        """
        now = 1_000_000
        keys: tuple[SigningKey, ...] = (signing.new_key(0),)
        published: dict[str, int] = {keys[0].kid: 0}
        last_signed: dict[str, int] = {}
        for pause in pauses:
            for moment in range(now, now + pause + 1, KEY_OVERLAP // 4):
                there = {key["kid"] for key in json.loads(signing.jwks(keys, moment))["keys"]}
                kid = signing.signer(keys, moment).kid
                self.assertGreaterEqual(moment - published[kid], KEY_OVERLAP)
                last_signed[kid] = moment
                for signed, when in last_signed.items():
                    if moment - when < KEY_OVERLAP:
                        self.assertIn(signed, there)
            now += pause
            keys = signing.rotated(keys, now)
            published[keys[-1].kid] = now
        now += 10 * KEY_OVERLAP
        self.assertEqual(signing.pruned(keys, now), keys[-1:])
        self.assertEqual(signing.signer(keys, now), keys[-1])

    def test_what_signs_no_more_cannot(self) -> None:
        keys = signing.rotated((signing.new_key(0),), 1000)
        old, new = signing.pruned(keys, 1000 + KEY_OVERLAP)
        self.assertEqual((old.private, new.private), (None, keys[1].private))
        self.assertEqual(signing.signer((old, new), 5), new)


class KeyringTests(SynchronousTestCase):
    """The file of keys."""

    def setUp(self) -> None:
        self.directory = tempfile.mkdtemp(prefix="streams-test-")
        self.addCleanup(shutil.rmtree, self.directory)
        self.path = Path(self.directory) / KEYS_FILE
        self.now = 1_000_000.0

    def open(self, rotate: bool = False, directory: Any = ...) -> Keyring:
        keyring = Keyring(self.directory if directory is ... else directory, lambda: self.now)
        keyring.open(rotate)
        return keyring

    def test_made_at_the_first_start(self) -> None:
        keyring = self.open()
        self.assertEqual(stat.S_IMODE(self.path.stat().st_mode), 0o600)
        self.assertEqual([entry.name for entry in Path(self.directory).iterdir()], [KEYS_FILE])
        again = self.open()
        self.assertEqual((again.kid, again.secret), (keyring.kid, keyring.secret))
        self.assertTrue(verify(b"x", keyring.sign(b"x"), again.jwks()))

    def test_in_memory(self) -> None:
        """Without a directory, keys exist in memory only."""
        keyring, other = self.open(directory=None), self.open(directory=None)
        self.assertNotEqual(keyring.kid, other.kid)
        self.assertNotEqual(keyring.secret, other.secret)
        self.assertEqual(os.listdir(self.directory), [])

    def test_access_of_the_group(self) -> None:
        """A volume mounted with fsGroup gives the group access: the mode is repaired."""
        kid = self.open().kid
        for mode in (0o640, 0o660, 0o620, 0o670):
            self.path.chmod(mode)
            self.assertEqual(self.open().kid, kid)
            self.assertEqual(stat.S_IMODE(self.path.stat().st_mode) & 0o077, 0)

    def test_access_of_the_group_of_another_owner(self) -> None:
        """A file of another user whose mode cannot be changed is read, with a warning."""

        def refuse(descriptor: int, mode: int) -> None:
            raise PermissionError(errno.EPERM, "Operation not permitted")

        kid = self.open().kid
        self.path.chmod(0o660)
        self.patch(os, "fchmod", refuse)
        self.patch(os, "geteuid", lambda: 12345)
        with capturedLogs() as events:
            self.assertEqual(self.open().kid, kid)
        (event,) = [event for event in events if event["log_level"] is LogLevel.warn]
        self.assertIn("Operation not permitted", formatEvent(event))

    def test_access_of_everyone(self) -> None:
        """A file that every user can read or change is refused."""
        self.open()
        for mode in (0o604, 0o644, 0o601, 0o666):
            self.path.chmod(mode)
            error = self.assertRaises(StoreUnusable, self.open)
            self.assertIn("chmod 600", str(error))
        self.path.chmod(0o400)
        self.open()

    def test_damaged(self) -> None:
        self.open()
        whole = json.loads(self.path.read_text())
        for content in (
            "",
            "[]",
            "{",
            json.dumps({**whole, "format": 2}),
            json.dumps({**whole, "secret": "AAAA"}),
            json.dumps({**whole, "keys": []}),
            json.dumps({**whole, "keys": [{**whole["keys"][0], "private": None}]}),
            json.dumps({**whole, "keys": [{**whole["keys"][0], "public": "AAAA"}]}),
        ):
            self.path.write_text(content)
            self.assertRaises(StoreUnusable, self.open)
        self.path.unlink()
        self.path.mkdir()
        self.assertRaises(StoreUnusable, self.open)

    def test_cannot_be_written(self) -> None:
        """Each failure to write the file has an error message."""
        draft = self.path.with_name(KEYS_FILE + ".new")
        draft.mkdir()
        error = self.assertRaises(StoreUnusable, self.open)
        self.assertIn("keys.json: Is a directory", str(error))
        draft.rmdir()
        self.open()
        for call in ("open", "fsync", "replace"):
            with mock.patch.object(os, call, side_effect=OSError(errno.EIO, "it fails")):
                error = self.assertRaises(StoreUnusable, self.open, rotate=True)
            self.assertIn("keys.json: it fails", str(error))
            self.open()

    def test_rotation(self) -> None:
        """A new key is published before it signs, and an old one after (§6.5)."""
        old = self.open()
        early = old.sign(b"x")
        rotated = self.open(rotate=True)
        self.assertEqual(rotated.kid, old.kid)
        self.assertEqual(len(json.loads(rotated.jwks())["keys"]), 2)
        self.now += KEY_OVERLAP
        restarted = self.open()
        self.assertNotEqual(restarted.kid, old.kid)
        self.assertEqual(restarted.secret, old.secret)
        self.assertTrue(verify(b"y", restarted.sign(b"y"), rotated.jwks()))
        self.assertTrue(verify(b"x", early, restarted.jwks()))
        stored = json.loads(self.path.read_text())["keys"]
        self.assertEqual([key["private"] is None for key in stored], [True, False])
        self.now += KEY_OVERLAP
        self.assertFalse(verify(b"x", early, self.open().jwks()))

    def test_crash_during_rotation(self) -> None:
        """A draft that a crash left does not prevent a rotation."""
        keyring = self.open()
        draft = self.path.with_name(KEYS_FILE + ".new")
        draft.write_text("half")
        rotated = self.open(rotate=True)
        self.assertEqual(rotated.kid, keyring.kid)
        self.assertFalse(draft.exists())
