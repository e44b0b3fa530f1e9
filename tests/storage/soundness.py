"""Every test of the durable store ends with a walk over what it left."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from durable_streams_tw.storage.admin.fsck.store import check, check_directory
from durable_streams_tw.storage.engine.kv import KeyValueEngine


def assert_sound(case: SynchronousTestCase, keyspace: KeyValueEngine) -> None:
    """Fail unless a store holds together."""
    case.assertEqual(list(check(keyspace, deep=True)), [])


def assert_sound_directory(case: SynchronousTestCase, directory: str) -> None:
    """The same for a store that is closed."""
    case.assertEqual(list(check_directory(directory, deep=True)), [])
