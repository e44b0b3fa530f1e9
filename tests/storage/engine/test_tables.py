"""Tests of subscription tables: codecs, keys, and the records of the memory store."""

from __future__ import annotations

from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from durable_streams_tw.protocol.limits import (
    MAX_DESCRIPTION,
    MAX_PATH,
    MAX_SUBSCRIPTION_ID,
    MAX_WEBHOOK_URL,
)
from durable_streams_tw.protocol.subscriptions.state import (
    Config,
    Cursor,
    ExplicitLink,
    Kind,
    Subscription,
)
from durable_streams_tw.storage.engine import codec, tables
from durable_streams_tw.storage.engine.format_version import check_format
from durable_streams_tw.storage.engine.tables import CURSORS, LINKS, SUBSCRIPTIONS, Table
from durable_streams_tw.storage.errors import CorruptRecord
from durable_streams_tw.storage.limits import MAX_RECORD
from durable_streams_tw.storage.memory.store import MemoryStore
from tests.storage.engine.fake_engine import FakeEngine

_text = st.text(max_size=20)
_counts = st.integers(0, 2**63 - 1)
_moments = st.none() | _counts
_configs = st.builds(
    Config, st.sampled_from(Kind), st.none() | _text, st.none() | _text, st.none() | _text,
    _counts, st.none() | _text,
)  # fmt: skip
_subscriptions = st.builds(
    Subscription, _counts, _text, _configs, st.binary(max_size=32), _counts, _counts, _counts,
    st.none() | _text, _text, _moments, _counts, st.none() | _text, _moments,
)  # fmt: skip
_cursors = st.builds(Cursor, _text, _counts)
_named = st.builds(ExplicitLink, _text)


class CodecTests(SynchronousTestCase):
    """Records round-trip; other bytes raise `CorruptRecord`."""

    def _comes_back(self, table: Table[Any], key: bytes, value: Any) -> None:
        whole = table.prefix + key
        sealed = codec.seal(whole, table.pack(value))
        self.assertEqual(table.unpack(whole, sealed), value)
        self.assertEqual(table.unpack(whole, memoryview(sealed)), value)
        self.assertRaises(CorruptRecord, table.unpack, whole + b"x", sealed)
        self.assertRaises(CorruptRecord, table.unpack, whole, sealed[:-1])

    @given(st.binary(max_size=20), _subscriptions)
    def test_subscriptions(self, key: bytes, value: Subscription) -> None:
        self._comes_back(SUBSCRIPTIONS, key, value)

    @given(st.binary(max_size=20), _cursors)
    def test_cursors(self, key: bytes, value: Cursor) -> None:
        self._comes_back(CURSORS, key, value)

    @given(st.binary(max_size=20), _named)
    def test_named(self, key: bytes, value: ExplicitLink) -> None:
        self._comes_back(LINKS, key, value)

    @given(st.sampled_from((SUBSCRIPTIONS, CURSORS, LINKS)), st.binary(max_size=60))
    def test_nonsense_under_a_right_checksum(self, table: Table[Any], payload: bytes) -> None:
        key = table.prefix + b"key"
        try:
            value = table.unpack(key, codec.seal(key, payload))
        except CorruptRecord:
            return
        self.assertEqual(table.unpack(key, codec.seal(key, table.pack(value))), value)

    def test_the_largest_fits(self) -> None:
        """The largest record that a client can cause fits."""
        wide = "\N{GRINNING FACE}"
        config = Config(
            Kind.PULL,
            "x" * MAX_PATH,
            None,
            "x" * MAX_PATH,
            600_000,
            wide * MAX_DESCRIPTION,
        )
        state = Subscription(
            2**64 - 1, "x" * MAX_SUBSCRIPTION_ID, config, b"x" * 32, 2**60, 10_000, 2**60,
            "w_" + "x" * 16, "x" * MAX_PATH, 2**60, 2**60, wide * MAX_DESCRIPTION, None,
        )  # fmt: skip
        self.assertLess(len(SUBSCRIPTIONS.pack(state)) + 4, MAX_RECORD)
        self.assertLessEqual(MAX_WEBHOOK_URL, MAX_PATH, "a webhook has a URL instead")


class KeyTests(SynchronousTestCase):
    """Keys fit, are unique, and lie in the range of their owner."""

    @given(st.integers(0, 2**64 - 2), st.lists(st.text(min_size=1, max_size=700), max_size=5))
    def test_owned_keys(self, number: int, paths: list[str]) -> None:
        first, stop = tables.owned_range(number)
        keys = {tables.owned_key(number, path) for path in paths}
        self.assertEqual(len(keys), len(set(paths)))
        for key in keys:
            self.assertTrue(first < key < stop)
            self.assertLessEqual(len(key) + 1, 511)

    def test_long_names(self) -> None:
        """Long names that differ only at their end have different keys."""
        same = "x" * 700
        self.assertNotEqual(tables.owned_key(1, same + "a"), tables.owned_key(1, same + "b"))
        longest = tables.subscription_key("x" * MAX_SUBSCRIPTION_ID)
        self.assertLess(len(longest), 511)

    @given(st.text(min_size=1, max_size=600), st.text(max_size=600))
    def test_names_by_prefix(self, path: str, prefix: str) -> None:
        """The key of a path lies in a range of each of its prefixes, and decodes to the path."""
        for begin in (path[: len(path) // 2], path, ""):
            key = codec.path_key(path)
            ranges = codec.path_ranges(begin)
            self.assertTrue(any(first <= key < stop for first, stop in ranges), (path, begin))
        payload = codec.pack_path(path, 7)
        self.assertEqual(codec.path_of(codec.path_key(path), payload), path)
        key = codec.path_key(prefix + path)
        self.assertTrue(any(a <= key < b for a, b in codec.path_ranges(prefix)))


class MemoryRecordTests(SynchronousTestCase):
    """Records of the memory store compared with a sorted dictionary."""

    @given(
        st.lists(
            st.tuples(st.booleans(), st.integers(0, 3), st.sampled_from("abc"), st.integers(0, 9)),
            max_size=30,
        )
    )
    def test_like_a_dictionary(self, steps: list[tuple[bool, int, str, int]]) -> None:
        held = MemoryStore(lambda: 0)
        expected: dict[bytes, Cursor] = {}
        for put, number, path, acked in steps:
            key = tables.owned_key(number, path)
            if put:
                held.put(CURSORS, key, Cursor(path, acked))
                expected[key] = Cursor(path, acked)
            else:
                held.remove(CURSORS, key)
                expected.pop(key, None)
            self.assertEqual(held.get(CURSORS, key), expected.get(key))
        self.assertEqual(list(held.range(CURSORS, b"", None)), sorted(expected.items()))
        self.assertEqual(list(held.range(LINKS, b"", None)), [])
        first, stop = tables.owned_range(1)
        within = [(key, expected[key]) for key in sorted(expected) if first <= key < stop]
        self.assertEqual(list(held.range(CURSORS, first, stop)), within)
        held.remove_owned(1)
        self.assertEqual(list(held.range(CURSORS, first, stop)), [])
        self.assertEqual(len(list(held.range(CURSORS, b"", None))), len(expected) - len(within))


class FormatTests(SynchronousTestCase):
    """Stores of older formats."""

    def test_upgrade(self) -> None:
        """An older store is upgraded: an older version cannot read its new records."""
        engine = FakeEngine()
        check_format(engine, "the fake", 5)
        old = codec.Meta(1, "0.0.9", 5)
        engine.content[codec.META_KEY] = codec.pack_meta(old)
        check_format(engine, "the fake", 9)
        meta = codec.unpack_meta(engine.content[codec.META_KEY])
        self.assertEqual(meta, msgspec.structs.replace(old, format=codec.FORMAT))
        commits = engine.commits
        check_format(engine, "the fake", 9)
        self.assertEqual(engine.commits, commits)
