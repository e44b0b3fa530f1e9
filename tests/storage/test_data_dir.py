"""Tests of data directories: creation, ownership lock, refusal."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import tempfile

from twisted.internet.task import Clock
from twisted.trial.unittest import SkipTest, SynchronousTestCase

from durable_streams_tw.storage import data_dir, files
from durable_streams_tw.storage.admin.inspect import match_owner
from durable_streams_tw.storage.data_dir import DataDirLock, owner
from durable_streams_tw.storage.durable.store import DurableStore
from durable_streams_tw.storage.engine import codec
from durable_streams_tw.storage.engine.format_version import check_format
from durable_streams_tw.storage.engine.kv import EngineFailed, EngineFull
from durable_streams_tw.storage.errors import StoreUnusable
from durable_streams_tw.storage.files import DATA_FILE, LOCK_FILE, OWNER_FILE, persist
from tests.storage.durable.store_case import scratch_directory
from tests.storage.engine.fake_engine import FakeEngine, Fault, always
from tests.storage.fsck_assertions import check_directory
from tests.storage.shared.inline_executor import InlineExecutor

_CLAIM_AND_WAIT = """
import sys
from durable_streams_tw.storage.data_dir import DataDirLock
claim = DataDirLock(sys.argv[1])
print("claimed", flush=True)
sys.stdin.read()
"""


class ClaimTests(SynchronousTestCase):
    """Ownership lock."""

    def setUp(self) -> None:
        self.directory = self.mktemp()

    def assertUnusable(self, sentence: str) -> None:
        with self.assertRaisesRegex(StoreUnusable, sentence):
            DataDirLock(self.directory)

    def test_made(self) -> None:
        """Directory and lock file are private to their owner."""
        self.directory = os.path.join(self.directory, "deep", "data")
        claim = DataDirLock(self.directory)
        self.assertEqual(os.stat(self.directory).st_mode & 0o777, 0o700)
        lock = os.path.join(self.directory, OWNER_FILE)
        self.assertEqual(os.stat(lock).st_mode & 0o777, 0o600)
        with open(lock) as file:
            self.assertEqual(file.read(), f"{os.getpid()}\n")
        persist(self.directory)
        claim.release()

    def test_there_already(self) -> None:
        """Files of the file system and of earlier owners are accepted."""
        os.makedirs(os.path.join(self.directory, "lost+found"))
        for _ in range(2):
            DataDirLock(self.directory).release()

    def test_second_in_the_same_process(self) -> None:
        claim = DataDirLock(self.directory)
        self.assertUnusable(rf"in use by another server \(process {os.getpid()}\)")
        claim.release()
        DataDirLock(self.directory).release()

    def test_second_in_another_process(self) -> None:
        """The lock ends with its process."""
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
            DataDirLock(self.directory).release()

    def test_foreign_files(self) -> None:
        """A directory with foreign files is refused."""
        os.makedirs(self.directory)
        with open(os.path.join(self.directory, "letter.txt"), "w"):
            self.assertUnusable("files that do not belong to this server")
        self.assertEqual(os.listdir(self.directory), ["letter.txt"])

    def test_no_directory(self) -> None:
        with open(self.directory, "w"):
            self.assertUnusable("cannot be used: File exists")
        self.directory = os.path.join(self.directory, "below")
        self.assertUnusable("cannot be used: Not a directory")

    def test_asked_at_the_same_moment(self) -> None:
        """Checks of the owner do not keep a server from starting."""
        DataDirLock(self.directory).release()
        path = os.path.join(self.directory, OWNER_FILE)
        with open(path) as asking:
            fcntl.flock(asking, fcntl.LOCK_SH)
            pauses: list[float] = []

            def pause(seconds: float) -> None:
                pauses.append(seconds)
                if len(pauses) == 3:
                    fcntl.flock(asking, fcntl.LOCK_UN)

            self.patch(data_dir, "sleep", pause)
            claim = DataDirLock(self.directory)
            self.assertEqual(len(pauses), 3)
            # The owner keeps its lock during checks.
            self.assertEqual(owner(self.directory), os.getpid())
            self.assertUnusable("in use by another server")
            self.assertEqual(len(pauses), 3)
            claim.release()
        self.assertIsNone(owner(self.directory))

    def test_asked_for_ever(self) -> None:
        """A process that keeps the shared lock is waited for only briefly."""
        DataDirLock(self.directory).release()
        with open(os.path.join(self.directory, OWNER_FILE)) as asking:
            fcntl.flock(asking, fcntl.LOCK_SH)
            pauses: list[float] = []
            self.patch(data_dir, "sleep", pauses.append)
            self.assertUnusable("in use by another server")
            self.assertLess(sum(pauses), 5)

    def test_all_users_may_write(self) -> None:
        """Other users' write permission is revoked if the directory is ours."""
        os.mkdir(self.directory)
        os.chmod(self.directory, 0o2777)
        DataDirLock(self.directory).release()
        self.assertEqual(os.stat(self.directory).st_mode & 0o7777, 0o2775)
        if os.geteuid() == 0:
            os.chmod(self.directory, 0o777)
            os.chown(self.directory, 65_533, -1)
            DataDirLock(self.directory).release()
            self.assertEqual(os.stat(self.directory).st_mode & 0o777, 0o777)

    def test_claim_file_that_is_none(self) -> None:
        os.makedirs(os.path.join(self.directory, OWNER_FILE))
        self.assertUnusable("cannot be used: Is a directory")

    def test_not_ours_to_write(self) -> None:
        """Run a function as an unprivileged user."""
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


class PlantedTests(SynchronousTestCase):
    """Files that another user has planted in a data directory."""

    def setUp(self) -> None:
        self.directory = scratch_directory(self)
        self.victim = os.path.join(self.directory, "victim")
        with open(self.victim, "w") as file:
            file.write("precious")
        self.data = os.path.join(self.directory, "data")
        os.mkdir(self.data)

    def open_store(self) -> None:
        """Open and close a store."""
        store = DurableStore(self.data, Clock(), InlineExecutor())
        store.open()
        store.close()

    def assertRefused(self, name: str, sentence: str) -> None:
        """Assert that the store does not open and the target file is unchanged."""
        with self.assertRaisesRegex(StoreUnusable, f"{name} {sentence}"):
            self.open_store()
        with open(self.victim) as file:
            self.assertEqual(file.read(), "precious")

    def test_links(self) -> None:
        """Symbolic links are not followed."""
        self.open_store()
        missing = os.path.join(self.directory, "nothing")
        for name in (OWNER_FILE, LOCK_FILE, "journal.a", "journal.b"):
            path = os.path.join(self.data, name)
            os.rename(path, path + ".away")
            for target in (self.victim, missing):
                os.symlink(target, path)
                self.assertRefused(name, "is a symbolic link: remove it")
                self.assertFalse(os.path.lexists(missing))
                os.unlink(path)
            os.rename(path + ".away", path)
            self.open_store()

    def test_links_before_the_first_start(self) -> None:
        """Links with names of drafts are removed, others are refused."""
        os.symlink(self.victim, os.path.join(self.data, DATA_FILE + files.DRAFT))
        for name in (OWNER_FILE, LOCK_FILE):
            path = os.path.join(self.data, name)
            os.symlink(self.victim, path)
            self.assertRefused(name, "is a symbolic link: remove it")
            os.unlink(path)
        self.open_store()
        os.unlink(os.path.join(self.data, "journal.a"))
        os.unlink(os.path.join(self.data, "journal.b"))
        os.symlink(self.victim, os.path.join(self.data, "journal.a" + files.DRAFT))
        self.open_store()
        with open(self.victim) as file:
            self.assertEqual(file.read(), "precious")

    def test_links_for_commands(self) -> None:
        """Commands that root runs do not follow links either."""
        self.open_store()
        for name in (LOCK_FILE, "journal.a"):
            path = os.path.join(self.data, name)
            os.rename(path, path + ".away")
            os.symlink(self.victim, path)
            with self.assertRaisesRegex(StoreUnusable, f"{name} is a symbolic link"):
                check_directory(self.data)
            os.rename(path + ".away", path)
        os.rename(os.path.join(self.data, OWNER_FILE), os.path.join(self.data, "away"))
        os.symlink(self.victim, os.path.join(self.data, OWNER_FILE))
        self.assertIsNone(owner(self.data))
        match_owner(os.path.join(self.data, OWNER_FILE), self.data)
        with open(self.victim) as file:
            self.assertEqual(file.read(), "precious")

    def test_named_pipe(self) -> None:
        """A named pipe is refused: opening one would block."""
        os.mkfifo(os.path.join(self.data, OWNER_FILE))
        self.assertIsNone(owner(self.data))
        self.assertRefused(OWNER_FILE, "is not a regular file: remove it")

    def test_of_another_user(self) -> None:
        """In a directory that all users can write to, files of other users and hard links are
        refused."""
        if os.geteuid() != 0:
            raise SkipTest("only root can give files away")
        path = os.path.join(self.data, OWNER_FILE)
        with open(path, "w"):
            os.chown(path, 65_533, -1)
        # In a directory that only its owner and root can write to, they are accepted.
        self.open_store()
        os.chown(self.data, 65_532, -1)
        self.assertRefused(OWNER_FILE, "belongs to user 65533")
        os.chown(path, 65_532, -1)
        self.open_store()
        os.unlink(path)
        os.link(self.victim, path)
        self.assertRefused(OWNER_FILE, "is a hard link")


class FormatTests(SynchronousTestCase):
    """Format records."""

    def setUp(self) -> None:
        self.engine = FakeEngine()

    def assertUnusable(self, sentence: str) -> None:
        content = dict(self.engine.content)
        with self.assertRaisesRegex(StoreUnusable, sentence):
            check_format(self.engine, "here", 5)
        self.assertEqual(self.engine.content, content)

    def test_marked_once(self) -> None:
        check_format(self.engine, "here", 5)
        marked = dict(self.engine.content)
        meta = codec.unpack_meta(marked[codec.META_KEY])
        self.assertEqual((meta.format, meta.created_at), (codec.FORMAT, 5))
        check_format(self.engine, "here", 6)
        self.assertEqual(self.engine.content, marked)
        self.assertEqual(self.engine.commits, 1)

    def test_newer(self) -> None:
        meta = codec.Meta(codec.FORMAT + 1, "7.5", 0)
        self.engine.content[codec.META_KEY] = codec.pack_meta(meta)
        self.assertUnusable(r"here was written by version 7\.5, which this version")

    def test_foreign(self) -> None:
        for content in (
            {b"anything": b"else"},
            {codec.META_KEY: b"not json"},
            {codec.META_KEY: b'{"format":1}'},
            {codec.META_KEY: b'{"format":1,"version":"1","created_at":0,"kind":"other"}'},
            {codec.META_KEY: b"[]"},
        ):
            self.engine.content = dict(content)
            self.assertUnusable("here holds a database that does not belong to this server")

    def test_failures(self) -> None:
        marked = {codec.META_KEY: codec.pack_meta(codec.Meta(codec.FORMAT, "1", 0))}
        for call, error in (
            ("get", EngineFailed),
            ("snapshot", EngineFailed),
            ("begin", EngineFailed),
            ("put", EngineFull),
            ("commit", EngineFull),
            ("commit", EngineFailed),
        ):
            self.engine.content = dict(marked) if call == "get" else {}
            self.engine.plan = always(call, Fault(error))
            self.assertUnusable("here cannot be used: ")
            self.assertFalse(self.engine.busy)
        self.engine.clear_plan()
        check_format(self.engine, "here", 5)
