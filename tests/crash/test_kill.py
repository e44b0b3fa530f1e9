"""Tests of repeated ``kill -9`` under load."""

from __future__ import annotations

import os
import random
import shutil
import tempfile

from twisted.trial.unittest import SynchronousTestCase

from tests.crash.load import Load
from tests.crash.processes import DriverProcess
from tests.storage.durable.store_case import scratch_directory
from tests.storage.fsck_assertions import assert_sound_directory

ROUNDS = int(os.environ.get("CRASH_ROUNDS", "3"))
PLACE = os.environ.get("CRASH_DIRECTORY")
SEED = os.environ.get("CRASH_SEED", "usual")

OPENS_IN = 2.0
"""Limit of the time to open a store after a crash, in seconds."""


class KillTests(SynchronousTestCase):
    """Store process that is killed at a random moment of every round."""

    def setUp(self) -> None:
        scratch = tempfile.mkdtemp(dir=PLACE) if PLACE else scratch_directory()
        self.addCleanup(shutil.rmtree, scratch)
        self.directory = os.path.join(scratch, "data")
        self.random = random.Random(SEED)

    def test_acknowledged_is_kept(self) -> None:
        """No acknowledged message is lost or duplicated, order is kept, an append and its close are
        atomic, and retries are recognized as duplicates."""
        load = Load(SEED)
        process = DriverProcess(self.directory)
        load.create(process)
        acknowledged = in_doubt = 0
        for _ in range(ROUNDS):
            load.open_closing(process)
            left = self.random.choice([1, 20, 100, 300])
            under_way = self.random.choice([1, 8, 64, 256])
            while left > 0:
                load.send(process, under_way)
                answered = load.take(process.answers(0.05 * self.random.random()))
                acknowledged += answered
                left -= max(answered, 1)
            load.send(process, under_way)
            process.answers(0)
            acknowledged += load.take(process.kill())
            assert_sound_directory(self, self.directory)
            process = DriverProcess(self.directory)
            self.assertLess(process.opened_in, OPENS_IN)
            more = load.check(process)
            in_doubt += more
            load.retry(process, more)
            self.assertEqual(load.check(process), 0)
        process.stop()
        assert_sound_directory(self, self.directory)
        self.assertGreater(acknowledged, ROUNDS)
        if ROUNDS > 50:
            self.assertGreater(in_doubt, 0, "no kill fell between a commit and its answer")

    def test_creating_and_deleting(self) -> None:
        """Created, forked and deleted streams equal the result of a prefix of the requests that
        includes all acknowledged ones."""
        process = DriverProcess(self.directory)
        requests: list[tuple[str, str]] = []
        for number in range(max(2, ROUNDS // 2)):
            for index in range(self.random.randrange(5, 30)):
                path = f"s{number}.{index}"
                requests += [("create", path), ("fork", path + "+")]
                if self.random.random() < 0.7:
                    requests.append(("delete", path))
                if self.random.random() < 0.5:
                    requests.append(("delete", path + "+"))
            start = len(requests) - len([r for r in requests if r[1].startswith(f"s{number}.")])
            for operation, path in requests[start:]:
                process.send(operation, path, *self.arguments(operation, path))
            answers = process.answers(0)
            while len(answers) < self.random.randrange(len(requests) - start):
                answers += process.answers(0.01)
            answers += process.kill()
            self.assertEqual(
                {outcome for _, outcome, *_ in answers}, {"done"} if answers else set()
            )
            assert_sound_directory(self, self.directory)
            process = DriverProcess(self.directory)
            paths = sorted({path for _, path in requests})
            found = {path: process.ask("read", path, 0)[0] for path in paths}
            possible = range(start + len(answers), len(requests) + 1)
            expected = [self.after(requests[:length]) for length in possible]
            matching = [
                length
                for length, states in zip(possible, expected, strict=True)
                if all(found[path] == states.get(path, "stream-not-found") for path in paths)
            ]
            self.assertNotEqual(matching, [], "no prefix of the requests leaves this")
            del requests[matching[0] :]
        process.stop()
        assert_sound_directory(self, self.directory)

    def arguments(self, operation: str, path: str) -> list[str]:
        """Return the arguments of an operation after its path."""
        if operation == "create":
            return ["x" * 100_000]
        return [path[:-1]] if operation == "fork" else []

    def after(self, requests: list[tuple[str, str]]) -> dict[str, str]:
        """Return the expected content of each existing path after some requests."""
        states: dict[str, str] = {}
        for operation, path in requests:
            if operation != "delete":
                states[path] = "read"
            elif states.get(path + "+") == "read":
                states[path] = "stream-gone"
            else:
                del states[path]
                if states.get(path[:-1]) == "stream-gone":
                    del states[path[:-1]]
        return states
