"""Tests of backups of a server under load: killed, completed, restored."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
import time

from durable_streams_tw.cli.store_tasks import EXIT_FAILED
from durable_streams_tw.storage.admin.backup import read_manifest
from tests.crash.server import Server, ServerCase
from tests.crash.test_kill import SEED
from tests.storage.fsck_assertions import assert_sound_directory


def command(*arguments: str) -> subprocess.Popen[bytes]:
    """Start a store command."""
    call = "from durable_streams_tw.cli.commands import main; main()"
    return subprocess.Popen(
        [sys.executable, "-c", call, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )


class HotBackupTests(ServerCase):
    """A backup has all messages acknowledged before it began, once and in order."""

    def test_producers(self) -> None:
        """Eight clients, one killed backup, one complete backup, and a killed server."""
        chance = random.Random(SEED)
        server, producers = self.start()
        with server.load(producers):
            while any(p.acknowledged < 20 for p in producers):
                time.sleep(0.01)
            backup = os.path.join(os.path.dirname(self.directory), "backup")
            arguments = ("backup", "--data-dir", self.directory, backup)
            killed = command(*arguments)
            time.sleep(chance.random() * 0.5)
            killed.kill()
            killed.communicate()
            if os.path.exists(backup):
                # The kill came too late: a backup with its final name is complete.
                read_manifest(backup)
            self._await_end_of(killed, backup)
            before = [p.acknowledged for p in producers]
            output, _ = (hot := command(*arguments)).communicate()
            self.assertEqual(hot.returncode, 0, output)
            behind = [p.acknowledged for p in producers]
            refused = command("compact", "--data-dir", self.directory)
            output, _ = refused.communicate()
            self.assertEqual(refused.returncode, EXIT_FAILED, output)
            self.assertIn(b"in use by another server", output)
        server.kill()
        self.assertGreater(sum(behind), sum(before), "the server went on meanwhile")
        assert_sound_directory(self, self.directory)
        shutil.rmtree(self.directory)
        restored = command("restore", "--data-dir", self.directory, backup)
        output, _ = restored.communicate()
        self.assertEqual(restored.returncode, 0, output)
        self.assertTrue(os.path.exists(os.path.join(self.directory, "keys.json")))
        server = Server(self.directory)
        for producer, least, most in zip(producers, before, behind, strict=True):
            # One more message may be stored and unacknowledged.
            self.assertIn(producer.stored(server), range(least, most + 2))
        server.stop()
        assert_sound_directory(self, self.directory)

    def _await_end_of(self, killed: subprocess.Popen[bytes], backup: str) -> None:
        """A worker process without its parent ends and leaves nothing at the destination."""
        deadline = time.monotonic() + 30
        while True:
            shutil.rmtree(backup, ignore_errors=True)
            probe = command("backup", "--data-dir", self.directory, backup)
            output, _ = probe.communicate()
            if probe.returncode == 0:
                break
            self.assertIn(b"in use", output)
            self.assertLess(time.monotonic(), deadline)
        shutil.rmtree(backup)
