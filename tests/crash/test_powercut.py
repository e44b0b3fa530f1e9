"""Tests of disk images after power cuts: the store opens them with all acknowledged data.

``python -m tests.crash.powercut --images 10000`` checks many more.
"""

from __future__ import annotations

import os
import random

from twisted.trial.unittest import SynchronousTestCase

from tests.crash import powercut
from tests.crash.faulty_files import SUPPORTED, Call, Traced
from tests.crash.lossy_disk import ALL_KEPT, NOTHING_KEPT, Cut, Image, LossyDisk
from tests.storage.durable.store_case import scratch_directory

SEED = 0
IMAGES = 80
"""Images of each workload that is not in `RENAMING`."""

RENAMING = {"copies": 1000, "keys": 160}

# -- the disk itself ----------------------------------------------------------------------------


class LossyDiskTests(SynchronousTestCase):
    """Changes that the model keeps, and those that it may lose."""

    def setUp(self) -> None:
        self.root = scratch_directory()
        self.addCleanup(os.rmdir, self.root)
        self.disk = LossyDisk(self.root)

    def do(self, call: Call, name: str = "", *, ended: bool = True, **fields: object) -> None:
        """Replay one call on the disk."""
        path = os.path.join(self.root, name) if name else ""
        values: dict[str, object] = {"other": "", "handle": 0, "flags": 0, "offset": 0}
        values.update(result=0, process=1, killed=False, data=b"")
        self.disk.begin(Traced(call=call, path=path, **{**values, **fields}))  # type: ignore[arg-type]
        if ended:
            self.disk.finish()

    def image(self, cut: Cut) -> Image:
        """Return an image after a power cut."""
        return self.disk.power_cut(random.Random(0), cut)

    def make(self, name: str, handle: int, flags: int = 0) -> None:
        """Create a file whose entry is safe."""
        self.do(Call.OPEN, name, handle=handle, flags=os.O_CREAT | flags)
        self.do(Call.OPEN, ".", handle=99)
        self.do(Call.FSYNC, handle=99)

    def test_names(self) -> None:
        """An entry is safe once its directory was flushed."""
        self.do(Call.OPEN, "a", handle=1, flags=os.O_CREAT)
        self.do(Call.WRITE, handle=1, data=b"x")
        self.do(Call.FSYNC, handle=1)
        self.assertEqual(self.image(NOTHING_KEPT).files, {})
        self.assertEqual(self.image(ALL_KEPT).files, {"a": b"x"})
        self.do(Call.OPEN, ".", handle=2)
        self.do(Call.FSYNC, handle=2, ended=False)
        self.assertEqual(self.image(NOTHING_KEPT).files, {})
        self.disk.finish()
        self.assertEqual(self.image(NOTHING_KEPT).files, {"a": b"x"})

    def test_rename(self) -> None:
        """A renamed file has its old or its new name."""
        self.make("a", 1)
        self.do(Call.RENAME, "a", other=os.path.join(self.root, "b"))
        self.assertEqual(set(self.image(NOTHING_KEPT).files), {"a"})
        self.assertEqual(set(self.image(ALL_KEPT).files), {"b"})

    def test_bytes(self) -> None:
        """A flush makes all earlier writes of a file safe, and no later ones."""
        self.make("a", 1)
        self.do(Call.WRITE, handle=1, data=b"abc")
        self.do(Call.FDATASYNC, handle=1)
        self.do(Call.WRITE, handle=1, offset=1, data=b"XYZ")
        self.assertEqual(self.image(NOTHING_KEPT).files["a"], b"abc")
        self.assertEqual(self.image(ALL_KEPT).files["a"], b"aXYZ")

    def test_synchronous(self) -> None:
        """A write through O_DSYNC is safe, and does not make other writes safe."""
        self.make("a", 1)
        self.do(Call.OPEN, "a", handle=2, flags=os.O_DSYNC)
        self.do(Call.WRITE, handle=1, data=b"abc")
        self.do(Call.WRITE, handle=2, offset=3, data=b"def", ended=False)
        self.assertEqual(self.image(NOTHING_KEPT).files["a"], b"")
        self.disk.finish()
        self.assertEqual(self.image(NOTHING_KEPT).files["a"], b"\0\0\0def")

    def test_failed_flush(self) -> None:
        """After a failed flush, its changes are never safe, also after a later flush."""
        self.make("a", 1)
        self.do(Call.WRITE, handle=1, data=b"abc")
        self.do(Call.FDATASYNC, handle=1, result=-5)
        self.do(Call.WRITE, handle=1, offset=2, data=b"CD")
        self.do(Call.FDATASYNC, handle=1)
        self.assertEqual(self.image(NOTHING_KEPT).files["a"], b"\0\0CD")
        self.assertEqual(self.image(ALL_KEPT).files["a"], b"abCD")

    def test_torn(self) -> None:
        """A torn write keeps some sectors, or a prefix."""
        self.make("a", 1)
        self.do(Call.WRITE, handle=1, data=b"o" * 2048)
        self.do(Call.FSYNC, handle=1)
        self.do(Call.WRITE, handle=1, data=b"n" * 2048)
        seen = set()
        for seed in range(200):
            image = self.disk.power_cut(random.Random(seed), Cut(1.0, 1.0))
            seen.add(image.files["a"])
        self.assertGreater(len(seen), 20)
        self.assertTrue(all(set(content) <= set(b"on") for content in seen))

    def test_sizes(self) -> None:
        """A new size is lost or kept like a write."""
        self.make("a", 1)
        self.do(Call.ALLOCATE, handle=1, offset=100)
        self.assertEqual(self.image(NOTHING_KEPT).files["a"], b"")
        self.do(Call.FSYNC, handle=1)
        self.assertEqual(self.image(NOTHING_KEPT).files["a"], bytes(100))
        self.do(Call.TRUNCATE, handle=1, offset=10)
        self.assertEqual(self.image(NOTHING_KEPT).files["a"], bytes(100))
        self.assertEqual(self.image(ALL_KEPT).files["a"], bytes(10))


# -- stores ---------------------------------------------------------------------------------------


class PowerCutTests(SynchronousTestCase):
    """Every image opens, has all acknowledged data, and accepts new writes."""

    if not SUPPORTED:
        skip = "fault injection needs Linux and gcc"

    def run_workload(self, name: str) -> None:
        """Check images of one workload."""
        wrong = powercut.run(name, SEED, RENAMING.get(name, IMAGES))
        if wrong:
            self.fail("\n".join(wrong))


def _add(name: str) -> None:
    def test(self: PowerCutTests) -> None:
        self.run_workload(name)

    test.__doc__ = f"The workload {name}."
    setattr(PowerCutTests, f"test_{name.replace('-', '_')}", test)


for _name in powercut.WORKLOADS:
    _add(_name)
