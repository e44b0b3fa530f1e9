"""Tests of offsets in two copies of one store: neither accepts offsets of the other."""

from __future__ import annotations

import shutil

from twisted.trial.unittest import SynchronousTestCase

from durable_streams_tw.storage.admin.backup import back_up
from durable_streams_tw.storage.admin.restore import restore
from tests.storage.durable.store_case import DurableStoreCase
from tests.storage.store_case import START, post, put
from tests.storage.suites.incarnation_suite import IncarnationSuite, offset


class CopiedStoreTests(DurableStoreCase, IncarnationSuite, SynchronousTestCase):
    """Copies of a data directory."""

    def open_copy(self, copy: str) -> None:
        """Close the store, and open a copy of it."""
        self.result(self.store.close())
        self.directory = copy
        self.store = self.open_store()

    def check_copies(self, copy: str) -> None:
        """Append to the original, then to the copy, and read with offsets of the original."""
        common = self.state_of()
        self.restart()
        original = self.appended(post(b"after the copy"))
        self.created(put("new", raw=b"0123"))
        new = self.state_of("new")
        self.open_copy(copy)
        self.assertReads("a", offset(common, 2), b"23")
        self.assertReads("a", offset(common), b"")
        self.assertOffsetGone("a", offset(original))
        self.appended(post(b"something else, and longer"))
        self.assertReads("a", offset(common), b"something else, and longer")
        self.assertOffsetGone("a", offset(original))
        self.created(put("new", raw=b"ABCDEFGH"))
        self.assertOffsetGone("new", offset(new))
        self.restart()
        self.assertOffsetGone("a", offset(original))

    def test_copied_directory(self) -> None:
        """A directory copied while the server is stopped."""
        self.created(put(raw=b"0123"))
        self.check_copied_directory()

    def test_copied_with_a_stopped_clock(self) -> None:
        """Two copies with the same clock and counter create different ids."""
        self.created(put(raw=b"0123"))
        self.now -= 1_000_000_000
        self.check_copied_directory()

    def check_copied_directory(self) -> None:
        """Copy the directory while the store is closed, and check the copies."""
        self.result(self.store.close())
        copy = self.directory + ".copy"
        shutil.copytree(self.directory, copy)
        self.store = self.open_store()
        self.check_copies(copy)

    def test_restored_backup(self) -> None:
        """A backup of the running server, restored to another directory."""
        self.created(put(raw=b"0123"))
        self.appended(post(b"4"))
        self.settle(self.store)
        self.result(self.store.close())
        backup, target = self.directory + ".backup", self.directory + ".restored"
        back_up(self.directory, backup, (), lambda: START, lambda *_: None)
        self.store = self.open_store()
        restore(backup, target, START, lambda *_: None)
        self.result(self.store.close())
        self.store = self.open_store()
        common = self.state_of()
        original = self.appended(post(b"after the backup"))
        self.open_copy(target)
        self.assertReads("a", offset(common, 2), b"234")
        self.appended(post(b"something else, and longer"))
        self.assertOffsetGone("a", offset(original))
