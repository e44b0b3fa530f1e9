"""Tests of `durable_streams_tw.storage.durable.reader`: correct bytes or an error."""

from __future__ import annotations

import gc
import weakref

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from durable_streams_tw.protocol import json_mode
from durable_streams_tw.storage.access_times import AccessTimes
from durable_streams_tw.storage.api import Command
from durable_streams_tw.storage.durable import reader
from durable_streams_tw.storage.durable.committer import Committer
from durable_streams_tw.storage.durable.transaction import BatchTransaction
from durable_streams_tw.storage.durable.write_cache import WriteCache
from durable_streams_tw.storage.engine import codec
from durable_streams_tw.storage.engine.format_version import check_format
from durable_streams_tw.storage.errors import CorruptRecord
from tests.storage.command_builders import JSON, append, create, fork
from tests.storage.engine.fake_engine import FakeEngine

LARGE = b'"' + b"x" * 40_000 + b'"'
MESSAGES = [b"1", b"[2,3]", LARGE, b'{"a":","}', LARGE, b"4"]


def store(*batches: list[Command]) -> FakeEngine:
    """Return an engine with the records of some batches."""
    engine = FakeEngine()
    check_format(engine, "the fake", 0)
    committer = Committer(engine, AccessTimes(), lambda: 1000, clock=lambda: 0.0)
    for batch in batches:
        committer.step(batch)
    return engine


def read(engine: FakeEngine, path: str, start: int, limit: int) -> bytes:
    """Return bytes of a stream, copied from a closed view."""
    with engine.snapshot() as view:
        record = reader.load_stream_at(view, path)
        assert record is not None
        state = record.state
        return reader.ViewReader(view).gather(state, start, state.tail, limit)


def between(engine: FakeEngine, path: str, position: int) -> bool:
    """Return True if a position is between messages."""
    with engine.snapshot() as view:
        record = reader.load_stream_at(view, path)
        assert record is not None
        return reader.ViewReader(view).is_boundary(record.state, position)


class LoadTests(SynchronousTestCase):
    """Records of streams."""

    def test_absent(self) -> None:
        with store().snapshot() as view:
            self.assertIsNone(reader.load_stream_at(view, "a"))
            self.assertIsNone(reader.load_stream(view, 1))
            self.assertIsNone(reader.ViewReader(view).stream(1))

    def test_present(self) -> None:
        with store([create("a"), create("a" * 600), create("a" * 599 + "b")]).snapshot() as view:
            first = reader.load_next_id(view) - 3
            for number, path in enumerate(("a", "a" * 600, "a" * 599 + "b"), first):
                record = reader.load_stream_at(view, path)
                assert record is not None
                self.assertEqual((record.state.path, record.state.id), (path, number))
                self.assertEqual(reader.load_stream(view, number), record)
                self.assertEqual(reader.ViewReader(view).stream(number), record.state)

    def test_a_path_that_leads_elsewhere(self) -> None:
        """A path record that refers to another path's stream is reported as corrupt."""
        engine = store([create("a"), create("b")])
        key = codec.path_key("a")
        for stream_id in (2, 99):
            engine.content[key] = codec.seal(key, codec.pack_path("a", stream_id))
            with engine.snapshot() as view, self.assertRaises(CorruptRecord):
                reader.load_stream_at(view, "a")


class ReferenceTests(SynchronousTestCase):
    """A reader is in no reference cycle.

    In a cycle it would keep LMDB transactions until a garbage collection, which is rare in a
    server, and LMDB has no more than MAX_READERS reader slots.
    """

    def test_freed(self) -> None:
        """A reader is freed after its use, and so is a transaction."""
        engine = store([create("a", b"x")])
        gc.disable()
        self.addCleanup(gc.enable)
        with engine.snapshot() as view:
            used = reader.ViewReader(view)
            state = used.stream_at("a")
            assert state is not None
            self.assertEqual(used.gather(state, 0, 1, 1), b"x")
            freed = weakref.ref(used)
            del used
            self.assertIsNone(freed())
        transaction = BatchTransaction(engine.begin(), WriteCache(), AccessTimes())
        state = transaction.stream_at("a")
        assert state is not None
        self.assertTrue(transaction.is_boundary(state, 1))
        ended = weakref.ref(transaction)
        del transaction
        self.assertIsNone(ended())


class GatherTests(SynchronousTestCase):
    """Bytes of a range."""

    def setUp(self) -> None:
        self.content = bytes(range(256)) * 300
        self.bytes = store(
            [create("a", self.content[:10])],
            [append("a", self.content[10:50_000])],
            [append("a", self.content[50_000:50_001])],
            [append("a", self.content[50_001:])],
            [fork("f", "a", 40_000, b"own"), fork("g", "f", 39_999), append("g", b"x" * 20_000)],
        )
        self.stored = json_mode.join(tuple(MESSAGES))
        whole = b"[" + b",".join(MESSAGES) + b"]"
        self.json = store([create("a", whole, content_type=JSON)])
        self.positions = [0]
        for message in MESSAGES:
            self.positions.append(self.positions[-1] + len(message) + 1)

    @given(st.integers(0, 76_799), st.integers(1, 80_000))
    def test_bytes(self, start: int, limit: int) -> None:
        """Exactly the requested bytes, from any position."""
        found = read(self.bytes, "a", start, limit)
        self.assertEqual(found, self.content[start : start + limit])

    @given(st.integers(0, 59_998), st.integers(1, 80_000))
    def test_forks(self, start: int, limit: int) -> None:
        """Inherited bytes are read through the sources."""
        content = self.content[:39_999] + b"x" * 20_000
        self.assertEqual(read(self.bytes, "g", start, limit), content[start : start + limit])

    @given(st.integers(0, 5), st.integers(1, 100_000))
    def test_messages(self, number: int, limit: int) -> None:
        """The message that crosses the limit is included whole."""
        start = self.positions[number]
        found = read(self.json, "a", start, limit)
        self.assertIn(start + len(found), self.positions)
        self.assertGreaterEqual(len(found), min(limit, len(self.stored) - start))
        self.assertEqual(found, self.stored[start : start + len(found)])

    def test_boundaries(self) -> None:
        found = [n for n in range(len(self.stored) + 1) if n % 997 == 0 or n < 60 or n > 80_000]
        found = [n for n in found if between(self.json, "a", n)]
        self.assertLessEqual(set(found), set(self.positions))
        for position in self.positions:
            self.assertTrue(between(self.json, "a", position))
            self.assertFalse(position and between(self.json, "a", position - 1))
        self.assertTrue(between(self.bytes, "a", 12_345))

    @given(st.data())
    def test_never_wrong_bytes(self, data: st.DataObject) -> None:
        """Flipped bits and missing records raise `CorruptRecord`."""
        engine = FakeEngine(self.bytes.content)
        key = data.draw(st.sampled_from(sorted(k for k in engine.content if k[:1] in b"psd")))
        if key[:1] == b"d" and data.draw(st.booleans()):
            del engine.content[key]
        else:
            value = bytearray(engine.content[key])
            bit = data.draw(st.integers(0, len(value) * 8 - 1))
            value[bit // 8] ^= 1 << bit % 8
            engine.content[key] = bytes(value)
        for path, content in (
            ("a", self.content),
            ("f", self.content[:40_000] + b"own"),
            ("g", self.content[:39_999] + b"x" * 20_000),
        ):
            start = data.draw(st.integers(0, len(content) - 1))
            limit = data.draw(st.integers(1, len(content)))
            try:
                found = read(engine, path, start, limit)
            except CorruptRecord:
                continue
            self.assertEqual(found, content[start : start + limit])

    @given(st.data())
    def test_never_wrong_boundaries(self, data: st.DataObject) -> None:
        """Missing records are no boundary."""
        engine = FakeEngine(self.json.content)
        lost = data.draw(st.sampled_from(sorted(k for k in engine.content if k[:1] == b"d")))
        del engine.content[lost]
        position = data.draw(st.sampled_from(self.positions))
        try:
            self.assertTrue(between(engine, "a", position))
            found = read(engine, "a", position, 1)
        except CorruptRecord:
            return
        self.assertEqual(found, self.stored[position : position + len(found)])
