"""Tests of failures while a data directory is created: the next start succeeds."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from functools import partial
from typing import Any

import lmdb
from twisted.trial.unittest import SynchronousTestCase

from durable_streams_tw.storage.durable.store import DurableStore
from durable_streams_tw.storage.errors import StoreUnusable
from tests.storage.durable.store_case import DurableStoreCase
from tests.storage.store_case import post, put

_CALLS = ("open", "rename", "fsync", "pwrite", "posix_fallocate", "ftruncate", "unlink")


class FailingCall:
    """Fault injector: counts calls and fails the n-th one, or all of some kinds."""

    def __init__(self, number: int, error: Callable[[], Exception]) -> None:
        self.number = number
        self.count = 0
        self._error = error

    def wrap(self, real: Callable[..., Any]) -> Callable[..., Any]:
        """Return a replacement of a function."""

        def call(*arguments: Any, **options: Any) -> Any:
            self.count += 1
            if self.count - 1 == self.number:
                raise self._error()
            return real(*arguments, **options)

        return call


class FirstStartTests(DurableStoreCase, SynchronousTestCase):
    """Processes that end after one failed call."""

    store: DurableStore

    def test_each_call(self) -> None:
        for error in (errno.EIO, errno.ENOSPC):
            for kind in ("os", "lmdb"):
                number = 0
                while self.fails(kind, number, error):
                    number += 1
                # More calls than these were made to fail, one per start.
                self.assertGreater(number, 10 if kind == "os" else 0)

    def fails(self, kind: str, number: int, error: int) -> bool:
        """Start in a new directory while the n-th call fails, then start again.

        Return True if the first start failed.
        """
        self.result(self.store.close())
        shutil.rmtree(self.directory)
        if kind == "os":
            failing = FailingCall(number, partial(OSError, error, os.strerror(error)))
            patches = [self.patch(os, name, failing.wrap(getattr(os, name))) for name in _CALLS]
        else:
            failing = FailingCall(number, partial(lmdb.Error, os.strerror(error)))
            patches = [self.patch(lmdb, "open", failing.wrap(lmdb.open))]
        try:
            self.store = self.open_store()
        except StoreUnusable:
            pass
        else:
            # The store may work without a WAL.
            self.result(self.store.close())
        finally:
            for patch in patches:
                patch.restore()
        reached = failing.count > number
        self.store = self.open_store()
        self.assertIsNotNone(self.store._engine._wal)
        self.created(put())
        self.appended(post(b"here"))
        self.restart()
        self.assertEqual(self.content(), b"here")
        return reached
