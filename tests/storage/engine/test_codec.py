"""Tests of codecs: records round-trip, keys sort numerically, damage is detected."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from durable_streams_tw.protocol.limits import MAX_PATH, MAX_TOKEN
from durable_streams_tw.protocol.streams.producers import ProducerClaim, ProducerState
from durable_streams_tw.protocol.streams.state import ForkPoint, Lifetime, StreamState
from durable_streams_tw.storage.engine import codec, tables
from durable_streams_tw.storage.engine.codec import Meta, StreamRecord
from durable_streams_tw.storage.errors import CorruptRecord
from durable_streams_tw.storage.limits import MAX_RECORD, RECORD_PAYLOAD

LONGEST_KEY = 511

ids = st.integers(0, 2**64 - 1)
positions = st.integers(0, 10**16 - 1)
counts = st.integers(0, 2**53 - 1)
texts = st.text(max_size=40)
names = st.text(min_size=1, max_size=MAX_PATH // 4) | st.text(
    alphabet="a\N{PILE OF POO}/", min_size=100, max_size=MAX_PATH // 4
)
claims = st.builds(ProducerClaim, texts, counts, counts)
lifetimes = st.builds(Lifetime, st.none() | counts, st.none() | counts, st.none() | texts)
points = st.builds(
    ForkPoint, ids, positions, texts, st.none() | positions, counts, counts, st.booleans()
)
states = st.builds(
    StreamState,
    ids,
    names,
    texts,
    positions,
    counts,
    counts,
    lifetimes,
    st.booleans(),
    st.none() | claims,
    st.none() | st.binary(max_size=20),
    st.none() | points,
    counts,
    st.booleans(),
)
stream_records = st.builds(StreamRecord, states, st.none() | counts, st.none() | positions)
keys = st.binary(min_size=1, max_size=40)


class ValueTests(SynchronousTestCase):
    """Record codecs."""

    @given(stream_records)
    def test_stream(self, record: StreamRecord) -> None:
        key = codec.stream_key(record.state.id)
        value = codec.seal(key, tables.STREAMS.pack(record))
        self.assertEqual(tables.STREAMS.unpack(key, value), record)

    @given(ids, counts, counts)
    def test_producer(self, stream_id: int, epoch: int, seq: int) -> None:
        key = producer_key(stream_id, "p")
        state = ProducerState(epoch, seq)
        value = codec.seal(key, tables.PRODUCERS.pack(state))
        self.assertEqual(tables.PRODUCERS.unpack(key, value), state)

    @given(ids, positions, st.integers(0, 3), st.binary(max_size=300))
    def test_data(self, stream_id: int, position: int, flags: int, payload: bytes) -> None:
        key = codec.data_key(stream_id, position)
        value = codec.pack_data(key, flags, payload)
        found, view = codec.unpack_data(key, value)
        self.assertEqual((found, bytes(view)), (flags, payload))
        self.assertEqual(codec.position_of(key), position)

    @given(st.binary(max_size=300), st.binary(max_size=300))
    def test_extended(self, payload: bytes, more: bytes) -> None:
        """An extended data record equals one written whole."""
        key = codec.data_key(1, 2)
        extended = codec.extend_data(codec.pack_data(key, 0, payload), more)
        self.assertEqual(extended, codec.pack_data(key, 0, payload + more))
        self.assertEqual(codec.data_size(extended), len(payload + more))

    @given(st.binary(min_size=1, max_size=30), st.binary(max_size=30), st.integers(0))
    def test_extended_damage(self, payload: bytes, more: bytes, place: int) -> None:
        """An extended corrupt record is still corrupt."""
        key = codec.data_key(1, 2)
        value = bytearray(codec.pack_data(key, 0, payload))
        value[place % len(value)] ^= 0x10
        extended = codec.extend_data(bytes(value), more)
        self.assertRaises(CorruptRecord, codec.unpack_data, key, extended)

    @given(names, ids)
    def test_path(self, path: str, stream_id: int) -> None:
        self.assertEqual(codec.unpack_path(codec.pack_path(path, stream_id)), stream_id)

    @given(st.integers(0, 2**31), texts, counts)
    def test_meta(self, number: int, version: str, created_at: int) -> None:
        meta = Meta(number, version, created_at)
        self.assertEqual(codec.unpack_meta(codec.pack_meta(meta)), meta)

    def test_largest(self) -> None:
        """A full data record, and the largest stream record that a client can cause, fit in four
        pages."""
        key = codec.data_key(1, 0)
        self.assertEqual(len(codec.pack_data(key, 3, bytes(RECORD_PAYLOAD))), MAX_RECORD)
        path, token = "\N{PILE OF POO}" * (MAX_PATH // 4), "t" * MAX_TOKEN
        state = StreamState(
            2**64 - 1,
            path,
            token,
            10**16,
            2**53,
            2**53,
            Lifetime(None, 2**53, "2" * 100),
            True,
            ProducerClaim(token, 2**53, 2**53),
            token.encode(),
            ForkPoint(2**64 - 1, 10**16, path, 10**16, 2**53, 1000, True),
        )
        value = codec.seal(b"s" * 9, tables.STREAMS.pack(StreamRecord(state, 2**53, 10**16)))
        self.assertLessEqual(len(value), MAX_RECORD)

    @given(keys, st.binary(max_size=50), st.data())
    def test_a_flipped_bit_is_noticed(
        self, key: bytes, payload: bytes, data: st.DataObject
    ) -> None:
        """Any flipped bit of the value or the key is detected."""
        value = bytearray(codec.seal(key, payload))
        bit = data.draw(st.integers(0, len(value) * 8 - 1))
        value[bit // 8] ^= 1 << bit % 8
        with self.assertRaises(CorruptRecord) as caught:
            codec.unseal(key, bytes(value))
        self.assertEqual(caught.exception.key, key)

    @given(keys, keys, st.binary(max_size=50))
    def test_a_value_of_another_key_is_noticed(self, key: bytes, other: bytes, it: bytes) -> None:
        value = codec.seal(key, it)
        if key == other:
            self.assertEqual(bytes(codec.unseal(other, value)), it)
        else:
            with self.assertRaises(CorruptRecord):
                codec.unseal(other, value)

    @given(keys, st.binary(min_size=1, max_size=12))
    def test_anything_else_is_noticed(self, key: bytes, value: bytes) -> None:
        """Any bytes decode to a record or raise `CorruptRecord`."""
        sealed = codec.seal(key, value)
        for unpack in (
            codec.unseal,
            tables.STREAMS.unpack,
            tables.PRODUCERS.unpack,
            codec.unpack_data,
        ):
            for damaged in (value, sealed[:4], sealed[:3], b""):
                with self.assertRaises(CorruptRecord):
                    unpack(key, damaged)

    def test_sealed_nonsense(self) -> None:
        """A valid checksum over garbage raises `CorruptRecord`."""
        for payload in (b"", b"\xc1", b"\x91\x01", b"\x92\x01\xa1x", b"text"):
            value = codec.seal(b"key", payload)
            for unpack in (tables.STREAMS.unpack, tables.PRODUCERS.unpack):
                with self.assertRaises(CorruptRecord):
                    unpack(b"key", value)
        with self.assertRaises(CorruptRecord):
            codec.unpack_data(b"key", codec.seal(b"key", b""))


def producer_key(stream_id: int, producer_id: str, generation: int = 0) -> bytes:
    """Return the key of a producer's record."""
    return codec.producer_key(stream_id, generation, codec.producer_name(producer_id))


class KeyTests(SynchronousTestCase):
    """Keys and key ranges."""

    def all_keys(self, stream_id: int, number: int, path: str) -> list[bytes]:
        return [
            codec.path_key(path),
            codec.stream_key(stream_id),
            codec.data_key(stream_id, number),
            producer_key(stream_id, path, number),
            codec.deadline_key(number, stream_id),
            codec.garbage_key(stream_id),
            codec.old_producers_key(stream_id, number),
            codec.META_KEY,
            codec.NEXT_ID_KEY,
        ]

    @given(ids, positions, names)
    def test_size(self, stream_id: int, number: int, path: str) -> None:
        for key in self.all_keys(stream_id, number, path):
            self.assertLessEqual(len(key), LONGEST_KEY)
        longest = "\N{PILE OF POO}" * (MAX_PATH // 4)
        for key in self.all_keys(stream_id, number, longest):
            self.assertLessEqual(len(key), LONGEST_KEY)

    @given(ids, positions, names, ids, positions, names)
    def test_distinct(self, id1: int, n1: int, path1: str, id2: int, n2: int, path2: str) -> None:
        """Keys are unique, also between kinds."""
        one, other = self.all_keys(id1, n1, path1), self.all_keys(id2, n2, path2)
        self.assertEqual(len(set(one)), len(one))
        same = [path1 == path2, id1 == id2, (id1, n1) == (id2, n2)]
        self.assertEqual([one[k] == other[k] for k in (0, 1, 2)], same)
        self.assertEqual(one[3] == other[3], (id1, n1, path1) == (id2, n2, path2))
        self.assertEqual(one[4] == other[4], (n1, id1) == (n2, id2))

    def test_long_names(self) -> None:
        """Long names with a common prefix have different keys; the full path is stored."""
        start = "x" * 600
        for make in (codec.path_key, lambda name: producer_key(1, name)):
            self.assertEqual(len({make(start + tail) for tail in ("", "a", "b", "ab")}), 4)
        self.assertIn(start.encode(), codec.pack_path(start, 1))
        edges = {codec.path_key("x" * length) for length in range(470, 490)}
        self.assertEqual(len(edges), 20)

    def test_a_name_cannot_pass_for_a_hash(self) -> None:
        """A short producer id that looks like a hash differs from the hashed id."""
        hashed = producer_key(1, "x" * 200)
        self.assertEqual(hashed[9:10], b"#")
        for text in ("#", "=", "#" + "x" * 32):
            self.assertEqual(producer_key(1, text)[9:10], b"=")

    @given(ids, positions, ids, positions)
    def test_order(self, id1: int, n1: int, id2: int, n2: int) -> None:
        """Keys sort by the numbers in them."""
        one, other = codec.data_key(id1, n1), codec.data_key(id2, n2)
        self.assertEqual(one < other, (id1, n1) < (id2, n2))
        one, other = codec.deadline_key(n1, id1), codec.deadline_key(n2, id2)
        self.assertEqual(one < other, (n1, id1) < (n2, id2))

    @given(st.integers(0, 2**64 - 2), positions, names)
    def test_owned_ranges(self, stream_id: int, number: int, name: str) -> None:
        """The ranges of a stream contain its records only."""
        owned = codec.stream_ranges(stream_id)
        for owner in (stream_id, stream_id + 1, max(stream_id - 1, 0)):
            for key in (codec.data_key(owner, number), producer_key(owner, name, number)):
                inside = [first <= key < behind for first, behind in owned]
                self.assertEqual(any(inside), owner == stream_id)

    @given(ids, positions, positions, names)
    def test_forgotten_producers(self, stream_id: int, old: int, until: int, name: str) -> None:
        """A generation's deletion mark covers the producers of older generations."""
        key = producer_key(stream_id, name, old)
        self.assertEqual(codec.parse_producer_key(key), (old, codec.producer_name(name)))
        ((first, behind),) = codec.garbage_ranges(codec.old_producers_key(stream_id, until))
        self.assertEqual(first <= key < behind, old < until or not old)

    @given(ids, positions, names)
    def test_kinds(self, stream_id: int, number: int, path: str) -> None:
        """The ranges of a kind contain its keys."""
        path_key, stream, _, _, deadline, garbage, _, _, _ = self.all_keys(stream_id, number, path)
        for key, kinds in (
            (path_key, codec.PATHS),
            (stream, (codec.STREAMS,)),
            (deadline, (codec.DEADLINES,)),
            (garbage, (codec.GARBAGE,)),
        ):
            self.assertTrue(any(first <= key < behind for first, behind in kinds))
