"""Assertions that a store has no flaws."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from durable_streams_tw.storage.admin.fsck.store import check
from durable_streams_tw.storage.admin.verify import check_directory
from durable_streams_tw.storage.engine.kv import KeyValueEngine


def assert_sound(case: SynchronousTestCase, engine: KeyValueEngine) -> None:
    """Fail if a store has findings."""
    case.assertEqual(list(check(engine, deep=True)), [])


def assert_sound_directory(case: SynchronousTestCase, directory: str) -> None:
    """Fail if a closed store has findings."""
    case.assertEqual(list(check_directory(directory, deep=True)), [])
