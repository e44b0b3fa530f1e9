"""Command ``webhook-keys``, and servers that share its file."""

from __future__ import annotations

import errno
import json
import os
import re
import stat
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any

from click.testing import CliRunner, Result
from twisted.internet import reactor
from twisted.internet.defer import Deferred, inlineCallbacks
from twisted.internet.testing import MemoryReactorClock
from twisted.trial.unittest import SynchronousTestCase, TestCase

from durable_streams_tw.cli.commands import commands
from durable_streams_tw.embedded.api import DurableStreams
from durable_streams_tw.http.settings import Settings
from durable_streams_tw.storage.errors import StoreUnusable
from durable_streams_tw.subscriptions.key_file import KeyFile
from durable_streams_tw.subscriptions.keyring import Keyring
from durable_streams_tw.subscriptions.limits import KEY_OVERLAP
from tests.subscriptions.test_keyring import verify


class WebhookKeysTests(SynchronousTestCase):
    """A file of keys that two servers read."""

    def setUp(self) -> None:
        self.file = Path(self.mktemp())
        self.now = time.time()

    def run_command(self) -> Result:
        return CliRunner().invoke(commands, ["webhook-keys", str(self.file)])

    def serve(self) -> Keyring:
        """Return the keyring of a server that starts."""
        keyring = Keyring(None, lambda: self.now, KeyFile(self.file, shared=True, writable=False))
        keyring.open()
        return keyring

    def test_key_is_rotated_for_all_servers(self) -> None:
        """A key that the command adds is published by all servers before it signs."""
        self.assertIn("signs", self.run_command().output)
        one, two = self.serve(), self.serve()
        self.assertEqual((one.kid, one.secret), (two.kid, two.secret))
        early = one.sign(b"x")
        added = re.search(r"(ds_\S+) signs from", self.run_command().output)
        assert added is not None
        one.adopt(self.file.read_bytes())
        two.adopt(self.file.read_bytes())
        self.assertNotIn(added[1], (one.kid, two.kid))
        self.assertEqual(len(json.loads(two.jwks())["keys"]), 2)
        self.now += KEY_OVERLAP + 1
        self.assertEqual([one.kid, two.kid, self.serve().kid], 3 * [added[1]])
        self.assertTrue(verify(b"y", one.sign(b"y"), two.jwks()))
        self.assertTrue(verify(b"x", early, two.jwks()))

    def test_key_that_does_not_sign_yet_is_not_followed_by_another(self) -> None:
        self.run_command()
        self.assertEqual(self.run_command().output, self.run_command().output)

    def test_server_reads_the_file_and_does_not_change_it(self) -> None:
        self.run_command()
        self.run_command()
        before = self.file.read_bytes()
        self.now += 2 * KEY_OVERLAP + 1
        self.assertEqual(len(json.loads(self.serve().jwks())["keys"]), 1)
        self.assertEqual(self.file.read_bytes(), before)

    def test_mode_that_lets_a_group_share_the_file_is_kept(self) -> None:
        """Neither a server nor the next key takes the access of a group away."""
        self.run_command()
        self.file.chmod(0o640)
        self.serve()
        before = self.file.read_bytes()
        self.assertEqual(self.run_command().exit_code, 0)
        self.assertNotEqual(self.file.read_bytes(), before)
        self.assertEqual(stat.S_IMODE(self.file.stat().st_mode), 0o640)

    def test_owner_of_the_file_is_kept(self) -> None:
        """The command of an administrator leaves the file to the user of the server."""
        self.run_command()
        owners: list[tuple[int, int]] = []
        self.patch(os, "fchown", lambda _, user, group: owners.append((user, group)))
        self.run_command()
        status = self.file.stat()
        self.assertEqual(owners, [(status.st_uid, status.st_gid)])

    def test_owner_that_cannot_be_kept_is_an_error(self) -> None:
        """A user who may not give the file to its owner and group changes nothing, and gets advice
        for the one that is not this user's.
        """

        def refuse(descriptor: int, user: int, group: int) -> None:
            raise PermissionError(errno.EPERM, "Operation not permitted")

        self.run_command()
        before = self.file.read_bytes()
        status = self.file.stat()
        self.patch(os, "fchown", refuse)
        group = f"could not keep group {status.st_gid} of {self.file}, run this as root or add"
        for user, advice in (
            (status.st_uid + 1, "run this as its owner"),
            (status.st_uid, f"{group} the owner of the file to that group"),
        ):
            self.patch(os, "geteuid", lambda user=user: user)
            result = self.run_command()
            self.assertEqual(result.exit_code, 1)
            self.assertIn(f"{advice}: Operation not permitted", result.output)
            self.assertEqual(self.file.read_bytes(), before)

    def test_symbolic_link_is_kept(self) -> None:
        """The command creates and replaces the target of a link, in the target's directory."""
        target = self.file.absolute()
        links = Path(self.mktemp())
        links.mkdir()
        self.file = links / "keys.json"
        self.file.symlink_to(target)
        for keys in (1, 2):
            self.assertEqual(self.run_command().exit_code, 0)
            self.assertEqual(len(json.loads(target.read_bytes())["keys"]), keys)
            self.assertTrue(self.file.is_symlink())
        self.assertEqual(list(links.iterdir()) + list(target.parent.iterdir()), [self.file, target])

    def test_advice_for_a_file_that_everyone_can_read_names_both_modes(self) -> None:
        self.run_command()
        self.file.chmod(0o644)
        for error in (self.run_command().output, str(self.assertRaises(StoreUnusable, self.serve))):
            self.assertIn(f"run chmod 600 {self.file}, or chmod 640 {self.file}", error)
            self.assertNotIn("remove", error)

    def test_missing_file_is_an_error_that_names_the_command(self) -> None:
        streams = DurableStreams(
            settings=Settings(webhook_keys=str(self.file)), reactor=MemoryReactorClock()
        )
        error = self.assertRaises(StoreUnusable, streams.startService)
        self.assertIn(f"webhook-keys {self.file}", str(error))
        self.assertFalse(self.file.exists())

    def test_damaged_file_is_an_error(self) -> None:
        self.file.write_text("{")
        self.file.chmod(0o600)
        result = self.run_command()
        self.assertEqual(result.exit_code, 1)
        self.assertIn("damaged", result.output)

    def test_option_that_would_change_the_file_is_refused(self) -> None:
        options = ["--webhook-keys", str(self.file), "--rotate-webhook-key"]
        result = CliRunner().invoke(commands, ["config", "check", *options])
        self.assertNotEqual(result.exit_code, 0)
        self.assertIn("durable-streams-server webhook-keys", result.output)


class ReadTests(TestCase):
    """Reads of the file while the server runs."""

    @inlineCallbacks
    def test_file_is_read_in_a_thread(self) -> Generator[Deferred[Any], Any, None]:
        file = Path(self.mktemp())
        keys = KeyFile(file, shared=True, writable=False, reactor=reactor)
        error = yield self.assertFailure(keys.read(), StoreUnusable)
        self.assertEqual(str(error), f"could not read {file}: No such file or directory")
        file.write_bytes(b"keys")
        file.chmod(0o640)
        found = yield keys.read()
        self.assertEqual(found, b"keys")

    @inlineCallbacks
    def test_file_that_everyone_can_read_is_refused(self) -> Generator[Deferred[Any], Any, None]:
        file = Path(self.mktemp())
        keys = KeyFile(file, shared=True, writable=False, reactor=reactor)
        file.write_bytes(b"keys")
        file.chmod(0o644)
        error = yield self.assertFailure(keys.read(), StoreUnusable)
        self.assertIn(f"run chmod 600 {file}, or chmod 640 {file}", str(error))
