"""Assertions that a store has no flaws."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from durable_streams_tw.storage.admin.fsck.findings import Finding
from durable_streams_tw.storage.admin.fsck.store import check
from durable_streams_tw.storage.admin.inspect import Inspection
from durable_streams_tw.storage.admin.verify import find_flaws
from durable_streams_tw.storage.engine.kv import KeyValueEngine


def check_directory(directory: str, deep: bool = False) -> list[Finding]:
    """Return the flaws of the store in a data directory."""
    with Inspection(directory) as store:
        return list(find_flaws(store, deep))


def assert_sound(case: SynchronousTestCase, engine: KeyValueEngine) -> None:
    """Fail if a store has findings."""
    case.assertEqual(list(check(engine, deep=True)), [])


def assert_sound_directory(case: SynchronousTestCase, directory: str) -> None:
    """Fail if a closed store has findings."""
    case.assertEqual(check_directory(directory, deep=True), [])
