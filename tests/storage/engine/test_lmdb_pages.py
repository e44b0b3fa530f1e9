"""Tests of truncated data files: each is refused with a message, whatever is missing."""

from __future__ import annotations

import json
import os
import random
import shutil
import struct

import lmdb
from twisted.trial.unittest import SynchronousTestCase

from durable_streams_tw.storage.engine.lmdb_pages import DamagedPages, used_end
from durable_streams_tw.storage.files import DATA_FILE
from tests.service.black_box import run_python
from tests.storage.durable.store_case import scratch_directory

_PAGE = 4096

# Open a copy of a store truncated to each of some sizes, read all of it, and write. A missing page
# would kill this process.
_OPEN = """
import json, os, shutil, sys
from durable_streams_tw.storage.admin.inspect import Inspection
from durable_streams_tw.storage.admin.verify import find_flaws
from durable_streams_tw.storage.errors import StoreUnusable
from durable_streams_tw.storage.engine.lmdb import LMDBEngine

directory, *sizes = json.loads(sys.argv[1])
found = []
for size in sizes:
    copy = directory + "-copy"
    shutil.copytree(directory, copy)
    os.truncate(copy + "/data.mdb", size)
    try:
        engine = LMDBEngine(copy)
    except StoreUnusable as unusable:
        try:
            with Inspection(copy) as store:
                list(find_flaws(store, deep=False))
        except StoreUnusable as again:
            assert str(again) == str(unusable), (again, unusable)
        found.append(str(unusable))
    else:
        with engine.snapshot() as view:
            seen = sum(len(bytes(value)) for _, value in view.scan(b"0", b"z"))
        for number in range(2):
            batch = engine.begin()
            for key in range(60):
                batch.put(b"new%d" % key, bytes(2000))
            batch.commit()
        assert os.stat(copy + "/data.mdb").st_size >= size
        found.append(seen)
        engine.close()
    shutil.rmtree(copy)
json.dump(found, sys.stdout)
"""


class CutShortTests(SynchronousTestCase):
    """Random stores, truncated at every page."""

    def setUp(self) -> None:
        self.directory = scratch_directory(self)
        self.store = os.path.join(self.directory, "store")
        self.path = os.path.join(self.store, DATA_FILE)

    def fill(self, seed: int) -> tuple[int, int, int]:
        """Create a store. Return the bytes of its values, its file size, and the computed end."""
        chance = random.Random(seed)
        with lmdb.open(self.store, map_size=1 << 30, sync=False) as environment:
            for _ in range(chance.randrange(1, 8)):
                with environment.begin(write=True) as batch:
                    for _ in range(chance.randrange(1, 100)):
                        size = chance.choice([10, 500, 3000, 9000, 16000])
                        batch.put(b"%d" % chance.randrange(120), bytes(size))
                    for _ in range(chance.randrange(220)):
                        batch.delete(b"%d" % chance.randrange(120))
            with environment.begin() as view:
                values = sum(len(value) for _, value in view.cursor())
                end = used_end(self.path, view.id())
            said = (environment.info()["last_pgno"] + 1) * _PAGE
        return values, end, said

    def open_cut(self, sizes: list[int]) -> list[int | str]:
        """Open it truncated to some sizes. Return the bytes of its values, or the error."""
        done = run_python(_OPEN, json.dumps([self.store, *sizes]))
        self.assertEqual(done.returncode, 0, done.stderr)
        found: list[int | str] = json.loads(done.stdout)
        return found

    def test_every_size(self) -> None:
        """A file opens if and only if its missing pages have never been written."""
        shorter = 0
        for seed in (0, 2, 5, 18, 26, 30):
            values, end, said = self.fill(seed)
            size = os.stat(self.path).st_size
            self.assertLessEqual(end, size)
            shorter += size < said
            for found in self.open_cut([size, end]):
                self.assertEqual(found, values)
            sizes = sorted(
                {0, 100, _PAGE, *range(2 * _PAGE, end, 17 * _PAGE), end - _PAGE, end - 1}
            )
            for cut, found in zip(sizes, self.open_cut(sizes), strict=True):
                self.assertRegex(str(found), "truncated|not an LMDB database", cut)
            shutil.rmtree(self.store)
        # Otherwise no file needed a page walk.
        self.assertGreater(shorter, 0)

    def test_damaged(self) -> None:
        """Pages that belong to no tree, or lead in a circle, are not believed."""
        self.fill(1)
        with open(self.path, "rb") as file:
            whole = file.read()
        metas = [struct.unpack_from("=QQQ", whole, at + 128) for at in (0, _PAGE)]
        root, _, newest = max(metas, key=lambda meta: meta[2])
        with self.assertRaisesRegex(DamagedPages, "no meta page belongs to commit"):
            used_end(self.path, newest + 1)
        at = root * _PAGE
        for content, why in (
            (whole[: at + 10] + bytes(2) + whole[at + 12 :], "is not a tree page"),
            (whole[:at] + bytes(8) + whole[at + 8 :], "is not a tree page"),
            (whole[: at + 12] + b"\xff\xff" + whole[at + 14 :], "cannot be read"),
            (whole[:16] + bytes(16) + whole[32:], "is not a meta page"),
            (whole[:100], "cannot be read"),
            (self.circle(whole, root), "form a cycle"),
        ):
            with open(self.path, "wb") as file:
                file.write(content)
            with self.assertRaisesRegex(DamagedPages, why):
                used_end(self.path, newest)

    def circle(self, whole: bytes, root: int) -> bytes:
        """Point the first node of the root, a branch, to the root itself."""
        begin = root * _PAGE
        flags, first = (struct.unpack_from("=H", whole, begin + offset)[0] for offset in (10, 16))
        self.assertTrue(flags & 1)
        node = begin + first
        return whole[:node] + struct.pack("=H", root) + whole[node + 2 :]
