"""Tests of backup, restore, compact and inspection."""

from __future__ import annotations

import os
import shutil
import tempfile
from types import SimpleNamespace
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from durable_streams_tw.storage.admin import copy as admin_copy
from durable_streams_tw.storage.admin import inspect
from durable_streams_tw.storage.admin.backup import MANIFEST_FILE, back_up, read_manifest
from durable_streams_tw.storage.admin.compact import compact
from durable_streams_tw.storage.admin.copy import CopiedFile
from durable_streams_tw.storage.admin.inspect import Inspection
from durable_streams_tw.storage.admin.restore import restore
from durable_streams_tw.storage.admin.stats import count
from durable_streams_tw.storage.admin.verify import FlawedStore
from durable_streams_tw.storage.data_dir import DataDirLock, exclude_readers, owner, shared_hold
from durable_streams_tw.storage.durable.reader import load_next_id
from durable_streams_tw.storage.engine import codec
from durable_streams_tw.storage.engine.format_version import first_id
from durable_streams_tw.storage.engine.lmdb import LMDBEngine
from durable_streams_tw.storage.errors import StoreUnusable
from durable_streams_tw.storage.files import DATA_FILE, LOCK_FILE, OWNER_FILE
from tests.service.black_box import run_python
from tests.storage.command_builders import fork
from tests.storage.durable.store_case import DurableStoreCase
from tests.storage.store_case import post, put

KEYS = "keys.json"
NOW = 5_000_000_000_000


class _Interrupted(BaseException):
    pass


def quiet(what: str, done: int, of: int) -> None:
    """Ignore progress."""


def interrupting(phase: str) -> Any:
    """Return a progress callback that raises in an activity."""

    def progress(what: str, done: int, of: int) -> None:
        if what == phase:
            raise _Interrupted

    return progress


class StoreFileCase(DurableStoreCase, SynchronousTestCase):
    """Base of tests with a closed store and a free path beside it."""

    def setUp(self) -> None:
        super().setUp()
        for number in range(8):
            self.created(put(f"s{number}", raw=b"%d" % number * 20_000))
        for number in range(4):
            self.deleted(f"s{number}")
        for _ in range(3):
            self.sweep(self.store)
        self.created(fork("fork", "s7"))
        self.result(self.store.close())
        self.place = self.mktemp()
        os.mkdir(self.place)
        self.backup = os.path.join(self.place, "backup")
        with open(os.path.join(self.directory, KEYS), "w") as keys:
            keys.write("secret")
        self.store = self.open_store()
        self.result(self.store.close())

    def finish(self) -> None:
        self.check()

    def make(self, progress: Any = quiet, **options: Any) -> Any:
        """Back up the store."""
        return back_up(
            self.directory, self.backup, (KEYS, "not-there"), lambda: NOW, progress, **options
        )

    def damage(self, path: str) -> None:
        """Flip bits of the data of s7, in free pages too."""
        with open(path, "r+b") as file:
            content = file.read()
            self.assertIn(b"7" * 1000, content)
            file.seek(0)
            file.write(content.replace(b"7" * 1000, b"7" * 999 + b"6"))

    def assertUnusable(self, sentence: str, call: Any, *arguments: Any, **options: Any) -> None:
        with self.assertRaisesRegex(StoreUnusable, sentence):
            call(*arguments, **options)

    def content_of(self, directory: str) -> dict[bytes, bytes]:
        """Return all pairs but the next id and the checkpoint record."""
        with Inspection(directory) as store, store.snapshot() as view:
            pairs = {bytes(key): bytes(value) for key, value in view.scan(b"\x00", b"\xff")}
        del pairs[codec.NEXT_ID_KEY], pairs[codec.CHECKPOINT_KEY]
        return pairs


class BackupTests(StoreFileCase):
    """Backups."""

    def test_whole(self) -> None:
        """A backup has the store without free pages, and its other files, only."""
        seen: list[tuple[str, int, int]] = []
        manifest = self.make(lambda *said: seen.append(said))
        self.assertEqual(sorted(os.listdir(self.backup)), [MANIFEST_FILE, DATA_FILE, KEYS])
        for name in os.listdir(self.backup):
            self.assertEqual(os.stat(os.path.join(self.backup, name)).st_mode & 0o777, 0o600)
        self.assertEqual(read_manifest(self.backup), manifest)
        self.assertEqual((manifest.began_at, manifest.flaws), (NOW, 0))
        self.assertEqual([file.name for file in manifest.files], [DATA_FILE, KEYS])
        source, copied = (
            os.stat(os.path.join(place, DATA_FILE)).st_size
            for place in (self.directory, self.backup)
        )
        self.assertLess(copied, source)
        self.assertEqual(manifest.files[0].size, copied)
        self.assertEqual(self.content_of(self.backup), self.content_of(self.directory))
        self.assertEqual({what for what, _, _ in seen}, {"copying", "checking"})
        self.assertTrue(all(0 <= done <= of for _, done, of in seen))

    def test_overwrites_nothing(self) -> None:
        os.mkdir(self.backup)
        self.assertUnusable("already exists", self.make)
        self.backup = os.path.join(self.directory, "backup")
        self.assertUnusable("inside the data directory", self.make)
        self.backup = self.directory
        self.assertUnusable("inside the data directory", self.make)

    def test_no_store(self) -> None:
        empty = os.path.join(self.place, "empty")
        os.mkdir(empty)
        arguments = (empty, self.backup, (), lambda: NOW, quiet)
        self.assertUnusable("there is no store in", back_up, *arguments)
        self.assertEqual((os.listdir(self.place), os.listdir(empty)), (["empty"], []))

    def test_interrupted(self) -> None:
        """A failed backup leaves nothing, whatever its phase."""
        for phase in ("copying", "checking"):
            self.assertRaises(_Interrupted, self.make, interrupting(phase))
            self.assertEqual(os.listdir(self.place), [])
        self.make()

    def leave(self, *names: str) -> str:
        """Leave the draft of a killed backup, and return its path."""
        draft = tempfile.mkdtemp(prefix="backup.partial-", dir=self.place)
        for name in names:
            with open(os.path.join(draft, name), "w") as file:
                file.write("half")
        return draft

    def test_killed(self) -> None:
        """The draft of a killed backup is not a backup, and the next one removes it."""
        for names in ((), (OWNER_FILE,), (DATA_FILE, KEYS, OWNER_FILE)):
            draft = self.leave(*names)
            self.assertUnusable("not a backup: it was interrupted", read_manifest, draft)
        self.make()
        self.assertEqual(os.listdir(self.place), ["backup"])

    def test_drafts_of_others(self) -> None:
        """Drafts of a running backup, with other files, or writable by other users are kept."""
        busy, letter, open_to_all = self.leave(), self.leave(DATA_FILE, "letter"), self.leave()
        os.chmod(open_to_all, 0o770)
        os.symlink(self.directory, self.backup + ".partial-link")
        before = self.content_of(self.directory)
        claim = DataDirLock(busy)
        self.make()
        claim.release()
        for path in (busy, letter, open_to_all, self.backup + ".partial-link"):
            self.assertTrue(os.path.lexists(path), path)
        self.assertIn("letter", os.listdir(letter))
        self.assertEqual(self.content_of(self.directory), before)

    def test_planted_links(self) -> None:
        """A symbolic link planted at a draft's path is not followed."""
        victim = os.path.join(self.place, "victim")
        os.mkdir(victim)
        with open(os.path.join(victim, "precious"), "w") as file:
            file.write("precious")
        planted = self.backup + ".partial"
        os.mkdir(planted)
        os.symlink(os.path.join(victim, "precious"), os.path.join(planted, OWNER_FILE))
        self.make()
        with open(os.path.join(victim, "precious")) as file:
            self.assertEqual(file.read(), "precious")
        os.symlink(victim, self.backup + "-2")
        self.backup += "-2"
        self.assertUnusable("already exists", self.make)
        self.assertEqual(os.listdir(victim), ["precious"])

    def test_linked_keys(self) -> None:
        """A symbolic link among the files is refused: it may point to a secret."""
        path = os.path.join(self.directory, KEYS)
        os.rename(path, path + ".away")
        os.symlink("/etc/passwd", path)
        self.assertUnusable("keys.json is a symbolic link", self.make)
        self.assertEqual(os.listdir(self.place), [])
        os.rename(path + ".away", path)

    def test_no_room(self) -> None:
        self.patch(shutil, "disk_usage", lambda path: SimpleNamespace(free=1000))
        self.assertUnusable("has 1,000 bytes free", self.make)
        self.assertEqual(os.listdir(self.place), [])

    def test_flawed(self) -> None:
        """A flawed store is refused, and backed up with `even_flawed`."""
        self.damaged = True
        self.damage(os.path.join(self.directory, DATA_FILE))
        with self.assertRaisesRegex(FlawedStore, r"has flaws \(2\), the first: .*checksum"):
            self.make()
        self.assertEqual(os.listdir(self.place), [])
        self.assertEqual(self.make(even_flawed=True).flaws, 2)
        target = os.path.join(self.place, "new")
        self.assertRaises(FlawedStore, restore, self.backup, target, NOW, quiet)
        self.assertNotIn(DATA_FILE, os.listdir(target))
        restore(self.backup, target, NOW, quiet, even_flawed=True)
        self.assertRaises(FlawedStore, compact, target, quiet)
        compact(target, quiet, even_flawed=True)
        self.assertEqual(self.content_of(target), self.content_of(self.directory))

    def test_leaking(self) -> None:
        """A store with leaked pages is copied with all pages."""
        whole = Inspection.copy

        def leaking(source: Inspection, write: Any, *, compact: bool) -> None:
            whole(source, write, compact=compact)
            if compact:
                raise inspect.LeakedPages

        self.patch(Inspection, "copy", leaking)
        self.make()
        sizes = [os.stat(os.path.join(at, DATA_FILE)).st_size for at in (self.backup,)]
        self.assertLessEqual(sizes[0], os.stat(os.path.join(self.directory, DATA_FILE)).st_size)
        self.assertEqual(self.content_of(self.backup), self.content_of(self.directory))

    def test_manifests(self) -> None:
        """Invalid manifests are refused."""
        self.assertUnusable("it has no backup.json", read_manifest, self.directory)
        self.make()
        path = os.path.join(self.backup, MANIFEST_FILE)
        with open(path) as file:
            good = file.read()
        for old, new, sentence in (
            ("{", "[", "damaged"),
            ("durable-streams backup", "other", "not a backup of this server"),
            ('"format": 1', '"format": 2', "which this version"),
            ('"name": "keys.json"', '"name": "../keys.json"', "damaged: its files"),
            ('"name": "data.mdb"', '"name": "else"', "damaged: its files"),
        ):
            self.assertIn(old, good)
            with open(path, "w") as file:
                file.write(good.replace(old, new, 1))
            self.assertUnusable(sentence, read_manifest, self.backup)


class RestoreTests(StoreFileCase):
    """Restores."""

    def setUp(self) -> None:
        super().setUp()
        self.make()
        self.target = os.path.join(self.place, "new")

    def restore(self, progress: Any = quiet) -> None:
        restore(self.backup, self.target, NOW, progress)

    def assertRestored(self) -> None:
        self.assertEqual(self.content_of(self.target), self.content_of(self.directory))
        with open(os.path.join(self.target, KEYS)) as keys:
            self.assertEqual(keys.read(), "secret")

    def test_whole(self) -> None:
        """A restored store is equal, and its next id skips those given after the backup."""
        self.restore()
        self.assertEqual(sorted(os.listdir(self.target)), [DATA_FILE, KEYS, OWNER_FILE])
        with Inspection(self.target) as store, store.snapshot() as view:
            self.assertEqual(load_next_id(view), first_id(NOW))
        self.assertRestored()
        self.directory = self.target
        self.store = self.open_store()
        self.assertEqual(self.content("fork"), b"7" * 20_000)
        self.created(put("more", raw=b"x"))
        self.result(self.store.close())

    def test_ids_never_go_back(self) -> None:
        restore(self.backup, self.target, 0, quiet)
        with Inspection(self.target) as store, store.snapshot() as view:
            restored = load_next_id(view)
        with Inspection(self.directory) as store, store.snapshot() as view:
            self.assertEqual(restored, load_next_id(view))

    def test_there_already(self) -> None:
        """A directory may contain files of the file system or of an empty store."""
        os.mkdir(self.target)
        os.mkdir(os.path.join(self.target, "lost+found"))
        for name in (LOCK_FILE, OWNER_FILE):
            with open(os.path.join(self.target, name), "w"):
                pass
        self.restore()
        self.assertRestored()

    def test_overwrites_nothing(self) -> None:
        os.mkdir(self.target)
        letter = os.path.join(self.target, "letter.txt")
        with open(letter, "w"):
            self.assertUnusable("files that do not belong to this server", self.restore)
        os.unlink(letter)
        self.restore()
        before = self.content_of(self.target)
        self.assertUnusable("already has a store", self.restore)
        self.assertEqual(self.content_of(self.target), before)

    def test_interrupted(self) -> None:
        for phase in ("copying", "checking"):
            self.assertRaises(_Interrupted, self.restore, interrupting(phase))
            self.assertEqual(os.listdir(self.target), [OWNER_FILE])
        self.restore()
        self.assertRestored()

    def test_killed(self) -> None:
        """The files of a killed restore are not a store, and the next one replaces them."""
        for names in (
            [DATA_FILE + ".restoring"],
            [DATA_FILE + ".restoring", KEYS + ".restoring"],
            [DATA_FILE + ".restoring", KEYS],
        ):
            self.target += "-again"
            os.mkdir(self.target)
            for name in names:
                with open(os.path.join(self.target, name), "w") as file:
                    file.write("half")
            with self.assertRaisesRegex(StoreUnusable, "do not belong to this server"):
                DataDirLock(self.target)
            self.restore()
            self.assertRestored()

    def test_damaged(self) -> None:
        """A changed backup is refused."""
        for name in (KEYS, DATA_FILE):
            path = os.path.join(self.backup, name)
            with open(path, "r+b") as file:
                first = file.read(1)
                file.seek(0)
                file.write(b"!")
                self.assertNotEqual(first, b"!")
            self.assertUnusable("does not match its digest", self.restore)
            self.assertEqual(os.listdir(self.target), [OWNER_FILE])
        os.unlink(path)
        self.assertUnusable("No such file", self.restore)


class CompactTests(StoreFileCase):
    """Compaction."""

    def test_smaller(self) -> None:
        before = self.content_of(self.directory)
        done = compact(self.directory, quiet)
        self.assertLess(done.after, done.before)
        self.assertEqual(os.stat(os.path.join(self.directory, DATA_FILE)).st_size, done.after)
        self.assertNotIn(LOCK_FILE, os.listdir(self.directory))
        self.assertEqual(self.content_of(self.directory), before)
        self.store = self.open_store()
        self.appended(post(b"more", path="s7"))
        self.result(self.store.close())

    def test_not_beside_others(self) -> None:
        """A store in use by a server or a reader is refused."""
        claim = DataDirLock(self.directory)
        self.assertUnusable("in use by another server", compact, self.directory, quiet)
        claim.release()
        with Inspection(self.directory):
            self.assertUnusable("is being read", compact, self.directory, quiet)
        with exclude_readers(self.directory):
            self.assertUnusable("try again", Inspection(self.directory).__enter__)
        with shared_hold(self.directory), shared_hold(self.directory):
            pass
        compact(self.directory, quiet)

    def test_interrupted(self) -> None:
        """A failed compaction leaves the store unchanged."""
        before = self.content_of(self.directory)
        for phase in ("copying", "checking"):
            with self.assertRaises(_Interrupted):
                compact(self.directory, interrupting(phase))
            self.assertNotIn(DATA_FILE + ".compacting", os.listdir(self.directory))
        with open(os.path.join(self.directory, DATA_FILE + ".compacting"), "w") as left:
            left.write("half")
        compact(self.directory, quiet)
        self.assertEqual(self.content_of(self.directory), before)

    def test_elsewhere(self) -> None:
        self.assertUnusable("no store", compact, self.place, quiet)
        os.symlink(
            os.path.abspath(os.path.join(self.directory, DATA_FILE)),
            os.path.join(self.place, DATA_FILE),
        )
        self.assertUnusable("symbolic link", compact, self.place, quiet)


class InspectionTests(StoreFileCase):
    """Inspection of a store in use."""

    def test_beside_a_server(self) -> None:
        """Another process reads each commit and the usage while we own the store."""
        self.store = self.open_store()
        script = (
            "import sys\n"
            "from durable_streams_tw.storage.admin.verify import find_flaws\n"
            "from durable_streams_tw.storage.admin.stats import count\n"
            "from durable_streams_tw.storage.data_dir import owner\n"
            "from durable_streams_tw.storage.admin.inspect import Inspection\n"
            "with Inspection(sys.argv[1]) as store, store.snapshot() as view:\n"
            "    print(owner(sys.argv[1]), count(view, 1).streams)\n"
            "    print(list(find_flaws(store, deep=True)))\n"
        )
        for expected in (5, 6):
            done = run_python(script, self.directory)
            self.assertEqual(done.stdout.split("\n")[:2], [f"{os.getpid()} {expected}", "[]"], done)
            self.created(put(f"another{expected}"))
        self.result(self.store.close())
        self.assertIsNone(owner(self.directory))
        self.assertIsNone(owner(self.place))

    def test_figures_and_census(self) -> None:
        with Inspection(self.directory) as store, store.snapshot() as view:
            figures, census = store.usage(), count(view, 2)
        size = os.stat(os.path.join(self.directory, DATA_FILE)).st_size
        self.assertEqual(figures.file, size)
        self.assertGreater(figures.free, 0)
        self.assertLessEqual(figures.used + figures.free, size + 20 * 4096)
        self.assertEqual(figures.entries, len(self.content_of(self.directory)) + 2)
        self.assertEqual((census.streams, census.forks, census.ended), (5, 1, 0))
        self.assertEqual(census.size, 80_000)
        self.assertEqual([stream.size for stream in census.largest], [20_000] * 2)
        self.assertEqual((census.unreadable, census.webhooks), (0, 0))

    def test_copied_file_is_taken_away_after_failures(self) -> None:
        path = os.path.join(self.place, "copy")
        with self.assertRaises(_Interrupted), admin_copy.FileWriter(path) as copy:
            copy.write(b"abc")
            raise _Interrupted
        self.assertEqual(os.listdir(self.place), [])
        with admin_copy.FileWriter(path) as copy:
            copy.write(b"abc")
        self.assertEqual(copy.copied_file().size, 3)
        self.assertIsInstance(copy.copied_file(), CopiedFile)
        with self.assertRaisesRegex(StoreUnusable, "File exists"), admin_copy.FileWriter(path):
            self.fail("it is there")

    def test_no_database(self) -> None:
        with open(os.path.join(self.place, DATA_FILE), "wb") as file:
            file.write(b"x" * 10_000)
        self.assertUnusable("is not an LMDB database", Inspection(self.place).__enter__)
        engine = LMDBEngine(self.directory)
        engine.close()


del StoreFileCase
