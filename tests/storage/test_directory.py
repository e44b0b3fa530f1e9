"""Data directories: made, claimed, refused."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile

from twisted.trial.unittest import SynchronousTestCase

from durable_streams_tw.storage import records
from durable_streams_tw.storage.directory import CLAIM_FILE, Claim, persist
from durable_streams_tw.storage.format import recognise
from durable_streams_tw.storage.interfaces import StoreUnusable
from durable_streams_tw.storage.keyspace import KeyspaceFailed, KeyspaceFull
from tests.storage.fake_keyspace import FakeKeyspace, Fault, always

_CLAIM_AND_WAIT = """
import sys
from durable_streams_tw.storage.directory import Claim
claim = Claim(sys.argv[1])
print("claimed", flush=True)
sys.stdin.read()
"""


class ClaimTests(SynchronousTestCase):
    """One owner at a time."""

    def setUp(self) -> None:
        self.directory = self.mktemp()

    def assertUnusable(self, sentence: str) -> None:
        with self.assertRaisesRegex(StoreUnusable, sentence):
            Claim(self.directory)

    def test_made(self) -> None:
        """The directory and what is in it are the owner's alone."""
        self.directory = os.path.join(self.directory, "deep", "data")
        claim = Claim(self.directory)
        self.assertEqual(os.stat(self.directory).st_mode & 0o777, 0o700)
        lock = os.path.join(self.directory, CLAIM_FILE)
        self.assertEqual(os.stat(lock).st_mode & 0o777, 0o600)
        with open(lock) as file:
            self.assertEqual(file.read(), f"{os.getpid()}\n")
        persist(self.directory)
        claim.release()

    def test_there_already(self) -> None:
        """Also with what file systems and earlier owners leave in it."""
        os.makedirs(os.path.join(self.directory, "lost+found"))
        for _ in range(2):
            Claim(self.directory).release()

    def test_second_in_the_same_process(self) -> None:
        claim = Claim(self.directory)
        self.assertUnusable(rf"in use by another server \(process {os.getpid()}\)")
        claim.release()
        Claim(self.directory).release()

    def test_second_in_another_process(self) -> None:
        """It may die as it likes: the claim dies with it."""
        with subprocess.Popen(
            [sys.executable, "-c", _CLAIM_AND_WAIT, os.path.abspath(self.directory)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        ) as other:
            assert other.stdout is not None
            self.assertEqual(other.stdout.readline(), b"claimed\n")
            self.assertUnusable(rf"in use by another server \(process {other.pid}\)")
            other.kill()
            other.wait()
            Claim(self.directory).release()

    def test_foreign_files(self) -> None:
        """Nothing is put beside them."""
        os.makedirs(self.directory)
        with open(os.path.join(self.directory, "letter.txt"), "w"):
            self.assertUnusable("files that are not this server's")
        self.assertEqual(os.listdir(self.directory), ["letter.txt"])

    def test_no_directory(self) -> None:
        with open(self.directory, "w"):
            self.assertUnusable("cannot be used: File exists")
        self.directory = os.path.join(self.directory, "below")
        self.assertUnusable("cannot be used: Not a directory")

    def test_claim_file_that_is_none(self) -> None:
        os.makedirs(os.path.join(self.directory, CLAIM_FILE))
        self.assertUnusable("cannot be used: Is a directory")

    def test_not_ours_to_write(self) -> None:
        """Whoever may write everywhere becomes somebody who may not."""
        self.directory = tempfile.mkdtemp()
        self.addCleanup(os.rmdir, self.directory)
        os.chmod(self.directory, 0o555)
        user = os.geteuid()
        if user == 0:
            self.addCleanup(os.seteuid, user)
            os.seteuid(65_534)
        self.assertUnusable("cannot be used: Permission denied")

    def test_persist_what_is_not_there(self) -> None:
        with self.assertRaisesRegex(StoreUnusable, "No such file"):
            persist(self.directory)


class FormatTests(SynchronousTestCase):
    """Whose store it is."""

    def setUp(self) -> None:
        self.keyspace = FakeKeyspace()

    def assertUnusable(self, sentence: str) -> None:
        content = dict(self.keyspace.content)
        with self.assertRaisesRegex(StoreUnusable, sentence):
            recognise(self.keyspace, "here", 5)
        self.assertEqual(self.keyspace.content, content)

    def test_marked_once(self) -> None:
        recognise(self.keyspace, "here", 5)
        marked = dict(self.keyspace.content)
        meta = records.unpack_meta(marked[records.META_KEY])
        self.assertEqual((meta.format, meta.created_at), (records.FORMAT, 5))
        recognise(self.keyspace, "here", 6)
        self.assertEqual(self.keyspace.content, marked)
        self.assertEqual(self.keyspace.commits, 1)

    def test_newer(self) -> None:
        meta = records.Meta(records.FORMAT + 1, "7.5", 0)
        self.keyspace.content[records.META_KEY] = records.pack_meta(meta)
        self.assertUnusable(r"here was written by version 7\.5, which this version")

    def test_foreign(self) -> None:
        for content in (
            {b"anything": b"else"},
            {records.META_KEY: b"not json"},
            {records.META_KEY: b'{"format":1}'},
            {records.META_KEY: b'{"format":1,"version":"1","created_at":0,"kind":"other"}'},
            {records.META_KEY: b"[]"},
        ):
            self.keyspace.content = dict(content)
            self.assertUnusable("here holds a database that is not this server's")

    def test_failures(self) -> None:
        for call, error in (
            ("snapshot", KeyspaceFailed),
            ("get", KeyspaceFailed),
            ("begin", KeyspaceFailed),
            ("put", KeyspaceFull),
            ("commit", KeyspaceFull),
            ("commit", KeyspaceFailed),
        ):
            self.keyspace.plan = always(call, Fault(error))
            self.assertUnusable("here cannot be used: ")
            self.assertFalse(self.keyspace.busy)
        self.keyspace.well()
        recognise(self.keyspace, "here", 5)
