"""Tests of the store commands."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
from typing import Any
from unittest import mock

from click.testing import CliRunner, Result
from twisted.trial.unittest import SynchronousTestCase

from durable_streams_tw.cli import store_worker
from durable_streams_tw.cli.commands import commands
from durable_streams_tw.cli.store_tasks import EXIT_FAILED, EXIT_UNSOUND, amount, plain_lines, size
from durable_streams_tw.storage.engine.format_version import check_format
from durable_streams_tw.storage.engine.lmdb import LMDBEngine
from durable_streams_tw.storage.files import DATA_FILE
from tests.storage.durable.store_case import DurableStoreCase
from tests.storage.store_case import put


class StoreCommandTests(DurableStoreCase, SynchronousTestCase):
    """Store commands on a store that no server uses."""

    def setUp(self) -> None:
        super().setUp()
        self.created(put("chat", raw=b"7" * 20_000))
        self.created(put("gone", raw=b"8" * 200_000))
        self.deleted("gone")
        self.sweep(self.store)
        self.result(self.store.close())
        self.place = os.path.abspath(self.mktemp())
        os.mkdir(self.place)
        self.backup = os.path.join(self.place, "backup")

    def run_command(self, *arguments: str, status: int = 0, **variables: str) -> Result:
        """Run a command in this process, and its worker process."""
        result = CliRunner().invoke(commands, arguments, env=variables)
        self.assertEqual(result.exit_code, status, result.output)
        return result

    def printed(self, *arguments: str, status: int = 0) -> Any:
        """Return the JSON output of a command."""
        result = self.run_command(
            *arguments, "--json", status=status, DURABLE_STREAMS_DATA_DIR=self.directory
        )
        return json.loads(result.stdout)

    def test_backup_and_restore(self) -> None:
        """Backup, restore, check and compact work, with the directory from the environment or an
        option.
        """
        self.assertEqual(self.printed("check")["findings"], [])
        made = self.printed("backup", self.backup)
        self.assertEqual([file["name"] for file in made["files"]], [DATA_FILE])
        new = os.path.join(self.place, "new")
        restored = self.run_command("restore", "-d", new, self.backup)
        self.assertIn("Restored data.mdb (", restored.stdout)
        self.assertIn("copying: ", restored.stderr)
        self.assertIn(", no findings.", self.run_command("check", "-d", new, "--deep").stdout)
        sizes = self.printed("compact")
        self.assertLess(sizes["after"], sizes["before"])

    def test_stats(self) -> None:
        told = self.printed("stats", "--top", "1")
        self.assertEqual(told["counted"]["streams"], 1)
        self.assertEqual(told["counted"]["largest"], [{"path": "chat", "size": 20_000}])
        self.assertIsNone(told["owner"])
        lines = self.run_command("stats", "-d", self.directory).stdout.splitlines()
        self.assertIn("      19.5 KiB  chat", lines)
        quick = self.run_command("stats", "-d", self.directory, "--quick").stdout
        self.assertNotIn("largest", quick)
        self.assertIn("free pages", quick)

    def test_damage(self) -> None:
        """`check` prints each finding and exits with `EXIT_UNSOUND`; `backup` needs
        --even-flawed.
        """
        self.damaged = True
        path = os.path.join(self.directory, DATA_FILE)
        with open(path, "r+b") as file:
            content = file.read()
            file.seek(0)
            file.write(content.replace(b"7" * 1000, b"7" * 999 + b"6"))
        findings = self.printed("check", status=EXIT_UNSOUND)["findings"]
        self.assertEqual({finding["flaw"] for finding in findings}, {"CORRUPT_RECORD"})
        lines = self.run_command("check", "-d", self.directory, status=EXIT_UNSOUND).stdout
        self.assertIn("a record fails its checksum", lines)
        self.assertIn(": 2 findings, the store is damaged.", lines)
        refused = self.run_command("backup", "-d", self.directory, self.backup, status=EXIT_UNSOUND)
        self.assertIn("--even-flawed", refused.stderr)
        self.assertFalse(os.path.exists(self.backup))
        self.assertEqual(self.printed("backup", self.backup, "--even-flawed")["flaws"], 2)

    def damaged_copy(self) -> str:
        """Return the path of the data file of a copy of the store."""
        self.damaged = True
        copy = os.path.join(self.place, "copy")
        os.mkdir(copy)
        return shutil.copy(os.path.join(self.directory, DATA_FILE), copy)

    def test_truncated(self) -> None:
        """A truncated file is reported and not read."""
        path = self.damaged_copy()
        # Only the two meta pages remain.
        os.truncate(path, 8192)
        for arguments in (("check",), ("backup", self.backup), ("stats",), ("compact",)):
            result = self.run_command(*arguments, "-d", os.path.dirname(path), status=EXIT_FAILED)
            self.assertRegex(result.stderr, "data.mdb has 8192 bytes of .*: it was truncated")

    def test_crash_of_the_worker(self) -> None:
        """A file that crashes the worker process is reported by the command."""
        directory = os.path.join(self.place, "small")
        os.mkdir(directory)
        engine = LMDBEngine(directory)
        check_format(engine, directory, 0)
        engine.close()
        with open(os.path.join(directory, DATA_FILE), "r+b") as file:
            for page in range(2 * 4096, os.fstat(file.fileno()).st_size, 4096):
                # The node offsets of each page point far beyond the end of the file.
                file.seek(page + 16)
                file.write(b"\xff" * 4)
        result = self.run_command("check", "-d", directory, status=EXIT_UNSOUND)
        self.assertIn("reading it crashed the process (SIG", result.stderr)

    def test_failed_system_call(self) -> None:
        """A failed system call is reported with its path."""
        for error, sentence in (
            (OSError(errno.EIO, "Input/output error"), "Input/output error"),
            (OSError(errno.ENOSPC, "No space left", "/data/x"), "/data/x: No space left"),
        ):
            task = json.dumps(["fail", {"directory": self.directory}])
            with (
                mock.patch.object(store_worker, "send") as send,
                mock.patch.dict(store_worker.TASKS, fail=mock.Mock(side_effect=error)),
                mock.patch.object(signal, "signal"),
            ):
                store_worker.main(task)
            send.assert_called_once_with("unusable", sentence)

    def test_unusable(self) -> None:
        """An unusable directory is reported in one line, with exit status `EXIT_FAILED`."""
        for arguments, sentence in (
            (("check",), "No data directory is set"),
            (("check", "-d", self.place), "There is no store in"),
            (("backup", "-d", self.directory, self.place), "already exists"),
            (("restore", "-d", self.backup, self.place), "is not a backup"),
            (("stats", "-d", self.directory + "/nowhere"), "There is no store in"),
        ):
            result = self.run_command(*arguments, status=EXIT_FAILED)
            self.assertIn(sentence, result.stderr)
            self.assertNotIn("Traceback", result.output)


class ProgressTests(SynchronousTestCase):
    """Progress messages."""

    def test_plain_lines(self) -> None:
        """A line is printed at the start of an activity and every ten seconds."""
        now = 0.0
        lines: list[str] = []
        show = plain_lines(lines.append, lambda: now)
        for now in (0.0, 5.0, 9.9, 10.0, 12.0):
            show("copying", int(now) * 1024, 20_480)
        show("checking", 5, 3)
        self.assertEqual(
            lines,
            [
                "copying: 0 bytes of 20.0 KiB",
                "copying: 10.0 KiB of 20.0 KiB",
                "checking: 5 of about 5 records",
            ],
        )

    def test_amounts(self) -> None:
        self.assertEqual(amount("counting", 1000, 2000), "1,000 of about 2,000 records")
        for number, text in ((1023, "1,023 bytes"), (1024, "1.0 KiB"), (3 << 50, "3,072.0 TiB")):
            self.assertEqual(size(number), text)
