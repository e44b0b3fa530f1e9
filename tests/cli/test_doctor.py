"""Tests of ``doctor``: its checks and its output."""

from __future__ import annotations

import errno
import json
import os
import resource

from click.testing import CliRunner
from msgspec.structs import replace
from twisted.trial.unittest import SynchronousTestCase

from durable_streams_tw.cli import doctor_checks
from durable_streams_tw.cli.commands import commands
from durable_streams_tw.cli.doctor_checks import CheckResult
from durable_streams_tw.cli.store_tasks import EXIT_UNSOUND
from durable_streams_tw.http.settings import Settings
from durable_streams_tw.storage.engine.limits import MAP_SIZE

GIB = 1 << 30
DEFAULTS = Settings()


class VerdictTests(SynchronousTestCase):
    """Checks of values."""

    def assertGrades(self, cases: list[tuple[CheckResult, str]]) -> None:
        self.assertEqual([result.grade for result, _ in cases], [grade for _, grade in cases])

    def test_open_files(self) -> None:
        look = doctor_checks.open_files
        self.assertGrades(
            [
                (look(1_000_000, 100_000), "good"),
                (look(resource.RLIM_INFINITY, 0), "good"),
                (look(1024, 960), "good"),
                (look(1024, 961), "warning"),
                (look(1024, 0), "warning"),
                (look(255, 1000), "bad"),
            ]
        )

    def test_workers(self) -> None:
        look = doctor_checks.workers
        self.assertGrades(
            [
                (look(1, 1, owner=True), "good"),
                (look(7, 8, owner=True), "good"),
                (look(8, 8, owner=True), "warning"),
                (look(8, 8, owner=False), "good"),
                (look(9, 8, owner=False), "warning"),
            ]
        )

    def test_address_space(self) -> None:
        look = doctor_checks.address_space
        self.assertGrades(
            [
                (look(resource.RLIM_INFINITY), "good"),
                (look(3 * MAP_SIZE), "good"),
                (look(100 * GIB), "warning"),
                (look(GIB), "bad"),
            ]
        )

    def test_protocols(self) -> None:
        look = doctor_checks.protocols
        self.assertGrades([(look([]), "good"), (look(["hpack"]), "bad")])
        self.assertIn("hpack", look(["hpack"]).sentence)
        self.assertEqual(doctor_checks._missing_packages(), [])

    def test_timeouts(self) -> None:
        for changes, troubles in (
            ({}, []),
            ({"long_poll_timeout": 60.0}, ["long-poll timeout"]),
            ({"head_timeout": 20.0, "idle_timeout": 10.0}, ["idle timeout"]),
            ({"head_timeout": 1.0, "idle_timeout": 2.0}, ["idle timeout"]),
            ({"sse_reconnect_interval": 1.0}, ["event streams"]),
        ):
            found = list(doctor_checks.timeouts(replace(DEFAULTS, **changes)))
            self.assertEqual([one.name for one in found if one.grade != "good"], troubles)

    def test_bodies(self) -> None:
        look = doctor_checks.bodies
        self.assertGrades([(look(DEFAULTS), "good"), (look(Settings(max_body=GIB)), "warning")])

    def test_disks(self) -> None:
        room, kind, flush = doctor_checks.room, doctor_checks.file_system, doctor_checks.flushing
        self.assertGrades(
            [
                (room(100 * GIB, 50 * GIB, 20 * GIB), "good"),
                (room(100 * GIB, 50 * GIB, 200 * GIB), "warning"),
                (room(100 * GIB, GIB - 1, None), "warning"),
                (room(100 * GIB, 1 << 20, None), "bad"),
                (kind("ext4"), "good"),
                (kind(None), "good"),
                (kind("tmpfs"), "warning"),
                (kind("overlay"), "warning"),
                (kind("nfs4"), "bad"),
                (flush([0.001, 0.002, 1.0]), "good"),
                (flush([0.03]), "warning"),
                (flush([0.000001]), "warning"),
                (flush([1.0]), "bad"),
            ]
        )

    def test_directories(self) -> None:
        place = self.mktemp()
        os.mkdir(place)
        look = doctor_checks.data_directory
        cases = [(look(place + "/new", place, None), "good"), (look(place, place, None), "good")]
        with open(os.path.join(place, "letter.txt"), "w"):
            cases += [(look(place, place, None), "bad"), (look(place, place, 5), "good")]
        self.assertGrades(cases)
        keys = doctor_checks.key_file
        self.assertGrades([(keys("keys", 0o600), "good"), (keys("keys", 0o640), "warning")])
        self.assertGrades([(keys("keys", 0o604), "bad")])

    def test_mounts(self) -> None:
        text = (
            "22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw\n"
            "30 22 0:25 / /dev/shm rw - tmpfs tmpfs rw\nnonsense\n"
        )
        self.assertEqual(doctor_checks.kind_among(text, os.makedev(0, 25)), "tmpfs")
        self.assertEqual(doctor_checks.kind_among(text, os.makedev(8, 1)), "ext4")
        self.assertIsNone(doctor_checks.kind_among(text, os.makedev(9, 9)))


class CommandTests(SynchronousTestCase):
    """``doctor`` on this machine."""

    def test_printed(self) -> None:
        """Each check prints a line, a failed one sets the exit status, and the directory stays
        empty.
        """
        place = os.path.abspath(self.mktemp())
        os.mkdir(place)
        arguments = ["doctor", "--data-dir", place, "--max-connections", "10"]
        result = CliRunner().invoke(commands, [*arguments, "--json"])
        results = {one["name"]: one["grade"] for one in json.loads(result.stdout)}
        self.assertEqual(results["data directory"], "good")
        self.assertLessEqual(
            {"TLS and HTTP/2", "disk", "flushing", "open files", "file system"}, set(results)
        )
        self.assertEqual(result.exit_code, EXIT_UNSOUND if "bad" in results.values() else 0)
        self.assertEqual(os.listdir(place), [])
        narrow = CliRunner().invoke(commands, [*arguments, "--max-body", "1GiB"])
        self.assertRegex(narrow.stdout, "(?m)^WARN  request bodies")

    def test_failing_disk(self) -> None:
        """A disk whose flush fails is reported."""

        def failing(_: int) -> None:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

        place = os.path.abspath(self.mktemp())
        os.mkdir(place)
        self.patch(os, "fsync", failing)
        result = CliRunner().invoke(commands, ["doctor", "--data-dir", place, "--json"])
        (flushing,) = [one for one in json.loads(result.stdout) if one["name"] == "flushing"]
        self.assertEqual(flushing["grade"], "bad")
        self.assertIn("Input/output error", json.dumps(flushing))

    def test_no_directory(self) -> None:
        """Runs without a directory, and with one that cannot be created."""
        memory = CliRunner().invoke(commands, ["doctor"], env={"DURABLE_STREAMS_DATA_DIR": None})
        self.assertIn("streams are in memory", memory.stdout)
        place = os.path.abspath(self.mktemp())
        with open(place, "w"):
            result = CliRunner().invoke(commands, ["doctor", "-d", place + "/below"])
        self.assertIn(f"{place} is not writable", result.stdout)
        self.assertEqual(result.exit_code, EXIT_UNSOUND)
