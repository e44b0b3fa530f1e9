"""Tests of memtables: a merged view reads like one store with all changes applied."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from hypothesis import example, given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from durable_streams_tw.storage.engine.kv import View
from durable_streams_tw.storage.engine.wal.format import Pairs
from durable_streams_tw.storage.engine.wal.memtable import (
    NOT_FOUND,
    BatchPairs,
    Memtable,
    MergedSnapshot,
    MergedView,
    NotFound,
)
from tests.storage.engine.fake_engine import FakeEngine

# Keys with and without an owner, some with a common one; groups end at the ninth byte.
_heads = st.sampled_from([b"", b"a", b"x", b"d" + bytes(7) + b"\x01", b"d" + bytes(7) + b"\x02"])
_last = b"d" + b"\xff" * 8
keys = st.builds(
    lambda head, rest: (head + rest) or b"-",
    _heads | st.just(_last),
    st.binary(max_size=2).map(lambda raw: bytes(byte % 3 for byte in raw)),
)
batches = st.dictionaries(keys, st.none() | st.binary(max_size=2), max_size=5)
bounds = keys | st.sampled_from([b"\x00", b"d", b"e", b"\xff"])


class MergedViewTests(SynchronousTestCase):
    """Merged views compared with a sorted dictionary."""

    def assertSame(self, view: View, model: dict[bytes, bytes], *asked: bytes) -> None:
        plain = FakeEngine(model)
        with plain.snapshot() as expected:
            for key in [*model, *asked]:
                self.assertEqual(_value(view.get(key)), model.get(key))
            first, lowest, stop = asked
            self.assertEqual(_pairs(view.scan(first, stop)), _pairs(expected.scan(first, stop)))
            everything = b"\x00", b"\xff" * 12
            self.assertEqual(_pairs(view.scan(*everything)), _pairs(expected.scan(*everything)))
            if lowest <= first <= stop:
                self.assertEqual(
                    _pairs(view.scan_from_floor(first, lowest, stop)),
                    _pairs(expected.scan_from_floor(first, lowest, stop)),
                )

    @given(
        st.dictionaries(keys, st.binary(max_size=2)),
        st.lists(batches, max_size=8),
        st.integers(0, 8),
        st.integers(0, 8),
        st.tuples(bounds, bounds, bounds),
    )
    @example({b"-": b""}, [{b"d": b""}], 0, 1, (b"d", b"\x00", b"d"))
    def test_equals_a_sorted_dictionary(
        self,
        below: dict[bytes, bytes],
        changes: list[Pairs],
        frozen: int,
        seen: int,
        asked: tuple[bytes, bytes, bytes],
    ) -> None:
        """Views as of each batch, over a frozen and an active memtable."""
        lower, upper, own = Memtable(), Memtable(), BatchPairs()
        model = dict(below)
        seen = min(seen, len(changes))
        last = seen == len(changes) and seen > frozen
        for number, pairs in enumerate(changes, 1):
            if number <= frozen:
                lower.add(number, pairs)
            elif last and number == seen:
                own.pairs.update(pairs)
            else:
                upper.add(number, pairs)
            if number <= seen:
                _change(model, pairs)
        memtables = [own, upper.as_of(seen), lower.as_of(seen)]
        with FakeEngine(below).snapshot() as lmdb_engine:
            self.assertSame(MergedSnapshot(memtables, lmdb_engine, seen), model, *asked)

    @given(st.lists(batches, max_size=8))
    def test_newest(self, changes: list[Pairs]) -> None:
        """`pairs` and `size` of a memtable."""
        memtable = Memtable()
        model: dict[bytes, bytes | None] = {}
        for number, pairs in enumerate(changes):
            memtable.add(number, pairs)
            model.update(pairs)
        self.assertEqual(memtable.pairs(), model)
        self.assertEqual(len(memtable), len(model))
        size = sum(len(key) + len(value or b"") for key, value in model.items())
        self.assertEqual(memtable.size, size)

    @given(st.lists(batches, max_size=8))
    def test_keys_meanwhile(self, changes: list[Pairs]) -> None:
        """Scans between additions return each key once."""
        memtable = Memtable()
        model: set[bytes] = set()
        for number, pairs in enumerate(changes):
            memtable.add(number, pairs)
            model.update(pairs)
            self.assertEqual(
                list(memtable.as_of(number).keys(b"\x00", b"\xff" * 20)), sorted(model)
            )

    def test_a_scan_looks_at_few_keys(self) -> None:
        """The first pair of a scan is found without reading other values."""
        memtable, looked = Memtable(), []

        class Counting:
            def get(self, key: bytes) -> bytes | NotFound | None:
                looked.append(key)
                return memtable.as_of(1).get(key)

            def keys(self, first: bytes, stop: bytes) -> Sequence[bytes]:
                return memtable.as_of(1).keys(first, stop)

        memtable.add(1, {b"x%03d" % number: b"" for number in range(1000)})
        with FakeEngine({b"x500+": b""}).snapshot() as lmdb_engine:
            view = MergedSnapshot([Counting()], lmdb_engine, 1)
            self.assertEqual(next(view.scan(b"x500", b"y"))[0], b"x500")
            self.assertEqual(next(view.scan_from_floor(b"x5000", b"x", b"y"))[0], b"x500+")
        self.assertLess(len(looked), 10)

    def test_untouched(self) -> None:
        """As of a batch before its first, a key is not found."""
        memtable = Memtable()
        memtable.add(2, {b"a": b"1"})
        memtable.add(4, {b"a": None})
        self.assertIs(memtable.as_of(1).get(b"a"), NOT_FOUND)
        with FakeEngine().snapshot() as lmdb_engine:
            view = MergedSnapshot([memtable.as_of(1)], lmdb_engine, 1)
            self.assertEqual(_pairs(view.scan(b"\x00", b"\xff")), [])
        self.assertEqual(
            [memtable.as_of(number).get(b"a") for number in (2, 3, 4)], [b"1", b"1", None]
        )

    def test_base_is_not_read(self) -> None:
        """Keys in the memtable are not read from the base; deleted keys do not exist."""
        memtable = Memtable()
        memtable.add(1, {b"a": b"1", b"b": None})

        class Unasked(MergedView):
            def _base(self) -> View:
                raise AssertionError("the base view was read")

        view = Unasked([memtable.as_of(1)])
        self.assertEqual((view.get(b"a"), view.get(b"b")), (b"1", None))


def _change(model: dict[bytes, bytes], pairs: Pairs) -> None:
    for key, value in pairs.items():
        if value is None:
            model.pop(key, None)
        else:
            model[key] = value


def _value(value: bytes | memoryview | None) -> bytes | None:
    return None if value is None else bytes(value)


def _pairs(
    pairs: Iterator[tuple[bytes | memoryview, bytes | memoryview]],
) -> list[tuple[bytes, bytes]]:
    return [(bytes(key), bytes(value)) for key, value in pairs]
