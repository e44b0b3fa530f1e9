"""Tests on a full disk: a small file system, filled to the last block."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time

from twisted.internet.task import Clock
from twisted.python.runtime import platform
from twisted.trial.unittest import SkipTest, SynchronousTestCase

from durable_streams_tw.protocol.errors import Problem
from durable_streams_tw.protocol.streams.outcomes import Appended
from durable_streams_tw.storage import limits
from durable_streams_tw.storage.durable import store as durable_store
from durable_streams_tw.storage.errors import StoreUnusable
from durable_streams_tw.storage.files import LOCK_FILE
from tests.crash.load import read
from tests.crash.processes import DriverProcess
from tests.service.black_box import run_python
from tests.storage.durable.store_case import DurableStoreCase, scratch_directory
from tests.storage.fsck_assertions import assert_sound_directory
from tests.storage.store_case import post, put

_SIZE = 12 * 2**20


def _mount(*options: str) -> None:
    try:
        subprocess.run(["mount", *options], check=True, capture_output=True, text=True)
    except FileNotFoundError:
        raise SkipTest("this system has no mount command") from None
    except subprocess.CalledProcessError as error:
        raise SkipTest(f"a file system cannot be mounted: {error.stderr.strip()}") from None


class _FullDisk(DurableStoreCase, SynchronousTestCase):
    """Base of tests with a store on a small file system."""

    if not platform.isLinux():
        skip = "small file systems are made as Linux makes them"

    def mount(self, place: str) -> None:
        """Create and mount the file system."""
        raise NotImplementedError

    def setUp(self) -> None:
        if os.geteuid() != 0:
            raise SkipTest("only root may mount a file system to fill")
        self.place = tempfile.mkdtemp()
        self.addCleanup(os.rmdir, self.place)
        self.mount(self.place)
        self.addCleanup(subprocess.run, ["umount", self.place], check=True)
        super().setUp()

    def make_store(self) -> durable_store.DurableStore:
        self.directory = os.path.join(self.place, "data")
        return self.open_store()

    # -- the disk ---------------------------------------------------------------------------

    def occupy(self, leave: int = 0) -> None:
        """Fill the disk with another file."""
        with open(os.path.join(self.place, "other"), "ab", buffering=0) as other:
            for size in (2**20, 4096, 1):
                try:
                    while shutil.disk_usage(self.place).free - size >= leave:
                        other.write(bytes(size))
                except OSError:
                    continue

    def vacate(self) -> None:
        """Remove that file."""
        os.unlink(os.path.join(self.place, "other"))

    # -- the store --------------------------------------------------------------------------

    def fill(self, paths: int = 10) -> int:
        """Append to streams until the disk is full; return the acknowledged bytes of each."""
        for number in range(paths):
            self.created(put(f"s{number}"))
        for written in range(10_000):
            outcomes = self.submit_all(
                *[post(b"%d" % number * 10_000, f"s{number}") for number in range(paths)]
            )
            if not all(isinstance(outcome, Appended) for outcome in outcomes):
                for outcome in outcomes:
                    if not isinstance(outcome, Appended):
                        self.assertRefused(Problem.STORAGE_FULL, outcome)
                return written * 10_000
        raise AssertionError("the disk never was full")

    def assertFull(self) -> None:
        for command in (post(b"x" * 20_000, "s9"), put("new")):
            self.assertRefused(Problem.STORAGE_FULL, self.submit(command))

    def assertReadable(self, number: int, size: int) -> None:
        content = self.content(f"s{number}")
        self.assertGreaterEqual(len(content), size)
        self.assertEqual(content, b"%d" % number * len(content))

    def assertRecovers(self, size: int) -> None:
        """Delete half of the streams: writes then work without a restart."""
        for number in range(5):
            self.deleted(f"s{number}")
        for _ in range(5):
            self.sweep(self.store)
        for number in range(5, 10):
            self.assertReadable(number, size)
            self.appended(post(b"%d" % number * 30_000, f"s{number}"))
            self.assertReadable(number, size + 30_000)
        self.created(put("new", raw=b"whole"))
        self.assertEqual(self.content("new"), b"whole")
        self.restart()
        self.assertEqual(self.content("new"), b"whole")

    # -- tests --------------------------------------------------------------------------------

    def test_reserve(self) -> None:
        """Writes stop before the disk is full; deletions free space."""
        size = self.fill()
        self.assertGreater(shutil.disk_usage(self.place).free, 0)
        self.assertFull()
        self.assertReadable(9, size)
        self.appended(post(closed=True, path="s0"))
        self.assertRecovers(size)

    def test_no_reserve(self) -> None:
        """Commits fail on a full disk, and no outcome is unknown."""
        self.result(self.store.close())
        self.patch(limits, "DISK_RESERVE", 0)
        self.store = self.open_store()
        size = self.fill()
        for _ in range(5):
            self.assertRefused(Problem.STORAGE_FULL, self.submit(post(b"x" * 200_000, "s9")))
        self.assertReadable(9, size)
        self.assertRecovers(size)

    def test_taken_by_others(self) -> None:
        """Without free blocks, deletions use free pages of the data file."""
        size = self.fill()
        self.occupy()
        self.assertEqual(shutil.disk_usage(self.place).free, 0)
        self.assertFull()
        self.assertReadable(9, size)
        self.appended(post(closed=True, path="s0"))
        self.assertRecovers(size)

    def test_room_appears(self) -> None:
        """Writes work again once the disk has space, without a restart."""
        self.created(put("s9"))
        self.appended(post(b"9" * 1_000_000, "s9"))
        self.occupy()
        self.assertFull()
        self.assertReadable(9, 1_000_000)
        self.vacate()
        self.appended(post(b"9" * 1_000_000, "s9"))
        self.assertReadable(9, 2_000_000)

    def test_opened_while_full(self) -> None:
        """A server starts on a full disk, to read and to delete."""
        size = self.fill()
        self.occupy()
        self.restart()
        self.assertFull()
        self.assertReadable(9, size)
        self.assertRecovers(size)

    def test_made_while_full(self) -> None:
        """Creating a store fails with a message, without a crash."""
        self.result(self.store.close())
        self.occupy()
        self.directory = os.path.join(self.place, "second")
        store = durable_store.DurableStore(self.directory, Clock(), self.executor)
        with self.assertRaisesRegex(StoreUnusable, "No space left|cannot be"):
            store.open()
        self.vacate()
        self.store = self.open_store()

    def test_lock_file_lost_while_full(self) -> None:
        """The lock file is allocated before LMDB maps it: otherwise LMDB dies of SIGBUS."""
        self.result(self.store.close())
        os.unlink(os.path.join(self.directory, LOCK_FILE))
        self.occupy()
        script = (
            "import sys\n"
            "from durable_streams_tw.storage.errors import StoreUnusable\n"
            "from durable_streams_tw.storage.engine.lmdb import LMDBEngine\n"
            "try: LMDBEngine(sys.argv[1])\n"
            "except StoreUnusable as error: print(error)\n"
        )
        done = run_python(script, self.directory)
        self.assertIn("cannot be written: the disk is full", done.stdout)
        self.vacate()
        self.store = self.open_store()


class TmpfsTests(_FullDisk):
    """tmpfs: a write on a full disk is short."""

    def mount(self, place: str) -> None:
        _mount("-t", "tmpfs", "-o", f"size={_SIZE}", "tmpfs", place)


class LoopTests(_FullDisk):
    """File system with delayed allocation, on a loop device."""

    def mount(self, place: str) -> None:
        if shutil.which("mkfs.ext4") is None:
            raise SkipTest("there is no mkfs.ext4")
        image = tempfile.mkstemp()[1]
        self.addCleanup(os.unlink, image)
        os.truncate(image, _SIZE)
        subprocess.run(["mkfs.ext4", "-q", "-m", "0", image], check=True)
        _mount("-o", "loop", image, place)


class FileLimitTests(SynchronousTestCase):
    """Limit of file sizes on a file system with free space."""

    def test_limit(self) -> None:
        """The limit acts like a full disk: 507, while reads and deletions work."""
        scratch = scratch_directory(self)
        directory = os.path.join(scratch, "data")
        process = DriverProcess(directory, CRASH_FILE_LIMIT=str(4 * 2**20))
        for path in ("a", "b"):
            self.assertEqual(process.ask("create", path, "")[0], "done")
        outcomes: list[str] = []
        size = 0
        while outcomes[-1:] != ["storage-full"]:
            outcomes += process.ask("append", "a", "x" * 100_000, None, False)[:1]
            size += 100_000 * (outcomes[-1] == "done")
            self.assertLess(len(outcomes), 1000)
        self.assertEqual(set(outcomes), {"done", "storage-full"})
        self.assertEqual(read(process, "a"), ("x" * size, False))
        self.assertEqual(process.ask("delete", "a"), ["done"])
        deadline = time.monotonic() + 30
        while process.ask("append", "b", "y" * 1_000_000, None, False)[0] != "done":
            self.assertLess(time.monotonic(), deadline, "there never was room again")
            process.answers(0.1)
        text, _ = read(process, "b")
        self.assertEqual(text, "y" * len(text))
        process.stop()
        assert_sound_directory(self, directory)


del _FullDisk
