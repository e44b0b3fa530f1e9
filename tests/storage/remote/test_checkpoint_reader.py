"""Tests of `durable_streams_tw.storage.remote.checkpoint_reader`."""

from __future__ import annotations

import os
import shutil
from typing import Any

from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.task import Clock
from twisted.logger import ILogObserver, globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import provider

from durable_streams_tw.protocol.errors import Problem
from durable_streams_tw.protocol.streams.commands import Delete
from durable_streams_tw.storage.api import IStreamStore
from durable_streams_tw.storage.data_dir import exclude_readers
from durable_streams_tw.storage.errors import StoreUnusable
from durable_streams_tw.storage.files import DATA_FILE
from durable_streams_tw.storage.remote.checkpoint_reader import CheckpointReader
from durable_streams_tw.storage.remote.server import StoreServer
from durable_streams_tw.storage.remote.store import RemoteStore
from tests.storage.durable.store_case import DurableStoreCase
from tests.storage.remote.wire import Wire
from tests.storage.store_case import JSON, post, put


def at_once(call: Any, *arguments: Any) -> Deferred[Any]:
    """Call a function in place of a thread."""
    return maybeDeferred(call, *arguments)


class CheckpointReaderTests(DurableStoreCase, SynchronousTestCase):
    """The reader on a copy of the owner's directory, since one process opens a file once."""

    def copied(self, store: IStreamStore) -> str:
        """Write a checkpoint, and return a copy of the directory as the last one left it."""
        self.store = self.reopen(store)
        copy = self.directory + ".copy"
        shutil.rmtree(copy, ignore_errors=True)
        os.mkdir(copy)
        shutil.copy(os.path.join(self.directory, DATA_FILE), copy)
        return copy

    def reader(self, directory: str) -> CheckpointReader:
        """Return a reader of a directory."""
        reader = CheckpointReader(directory, at_once)
        reader.open()
        self.addCleanup(reader.close)
        return reader

    def range(self, reader: CheckpointReader, stream_id: int, start: int, stop: int) -> Any:
        """Read a range."""
        read = reader.read_range(stream_id, start, stop)
        assert read is not None
        return self.successResultOf(read)

    def test_ranges(self) -> None:
        """Any range up to the tail of the last checkpoint is read, of forks too."""
        data = bytes(range(256)) * 300
        state = self.created(put(raw=data))
        reader = self.reader(self.copied(self.store))
        for start, stop in ((0, len(data)), (1, 2), (16_000, 40_000), (5, 5)):
            self.assertEqual(self.range(reader, state.id, start, stop), data[start:stop])
        self.assertIsNone(self.range(reader, state.id, 0, len(data) + 1))
        self.assertIsNone(self.range(reader, state.id + 1, 0, 1))

    def test_messages(self) -> None:
        """A range may end inside a message."""
        state = self.created(put("a", JSON, b'["%s",2]' % (b"x" * 50_000)))
        reader = self.reader(self.copied(self.store))
        self.assertEqual(self.range(reader, state.id, 40_000, 50_004), b"x" * 10_001 + b'",2')

    def test_no_store(self) -> None:
        """Without a file that can be read, the owner is asked, and the log says so."""
        logged: list[str] = []

        @provider(ILogObserver)
        def observe(event: Any) -> None:
            logged.append(event["log_format"].format(**event))

        globalLogPublisher.addObserver(observe)
        self.addCleanup(globalLogPublisher.removeObserver, observe)
        reader = self.reader(self.directory + ".missing")
        self.assertIsNone(reader.read_range(1, 0, 1))
        self.assertIn("Long responses are read by the owner of the store", logged[-1])

    def test_hold(self) -> None:
        """The file is not replaced while it is open; a reader opens it after that."""
        state = self.created(put(raw=b"one"))
        copy = self.copied(self.store)
        with exclude_readers(copy):
            reader = self.reader(copy)
            self.assertIsNone(reader.read_range(state.id, 0, 3))
        reader.open()
        self.assertEqual(self.range(reader, state.id, 0, 3), b"one")
        with self.assertRaises(StoreUnusable), exclude_readers(copy):
            self.fail("the directory is locked")
        reader.close()
        with exclude_readers(copy):
            self.assertIsNone(reader.read_range(state.id, 0, 3))

    def test_of_a_remote_store(self) -> None:
        """A remote store reads what the checkpoint has, and asks the server for the rest."""
        state = self.created(put(raw=b"x" * 100_000))
        clock = Clock()
        copy = self.copied(self.store)
        server = StoreServer(self.store, clock, directory=copy)
        wire = Wire(server, clock)
        remote = RemoteStore(clock, wire, in_thread=at_once)
        remote.open()
        wire.settle()
        (end,) = wire.fronts
        asked = len(end.buffer) + end.delivered
        self.assertEqual(
            self.successResultOf(remote.read_range("a", state.id, 10, 50_000)), b"x" * 49_990
        )
        clock.advance(0)
        self.assertEqual(len(end.buffer) + end.delivered, asked)
        self.appended(post(b"y" * 100))
        read = remote.read_range("a", state.id, 99_999, 100_001)
        wire.settle()
        self.executor.drain()
        wire.settle()
        self.assertEqual(self.successResultOf(read), b"xy")
        self.submit(Delete("a"))
        read = remote.read_range("a", state.id, 99_999, 100_001)
        wire.settle()
        self.executor.drain()
        wire.settle()
        self.assertRefused(Problem.STREAM_NOT_FOUND, self.successResultOf(read))
        closed = remote.close()
        wire.settle()
        self.successResultOf(closed)
        self.assertRefused(
            Problem.STOPPING, self.successResultOf(remote.read_range("a", state.id, 0, 1))
        )
