"""Tests of the store check: it finds each kind of flaw, and none in a valid store."""

from __future__ import annotations

import os
import struct
from itertools import combinations, islice
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from twisted.trial.unittest import SynchronousTestCase

from durable_streams_tw.protocol.streams.producers import ProducerClaim
from durable_streams_tw.storage.access_times import AccessTimes
from durable_streams_tw.storage.admin.backup import back_up
from durable_streams_tw.storage.admin.fsck import store as checking
from durable_streams_tw.storage.admin.fsck.findings import Finding, Flaw
from durable_streams_tw.storage.admin.fsck.store import check
from durable_streams_tw.storage.admin.inspect import Inspection
from durable_streams_tw.storage.admin.verify import FlawedStore, find_flaws
from durable_streams_tw.storage.api import Command
from durable_streams_tw.storage.durable import reader
from durable_streams_tw.storage.durable.committer import Committer
from durable_streams_tw.storage.engine import codec, tables
from durable_streams_tw.storage.engine.codec import StreamRecord
from durable_streams_tw.storage.engine.format_version import check_format
from durable_streams_tw.storage.engine.kv import EngineFailed
from durable_streams_tw.storage.errors import StoreUnusable
from durable_streams_tw.storage.files import DATA_FILE
from durable_streams_tw.storage.limits import MAX_RECORD, RECORD_PAYLOAD
from tests.storage.command_builders import JSON, append, create, delete, fork
from tests.storage.durable.store_case import DurableStoreCase
from tests.storage.engine.fake_engine import FakeEngine, Fault, always
from tests.storage.fsck_assertions import check_directory
from tests.storage.store_case import put

LONG = "long/" + "x" * 700


def rich_store() -> FakeEngine:
    """Return a store with records of all kinds."""
    engine = FakeEngine()
    check_format(engine, "the fake", 0)
    committer = Committer(engine, AccessTimes(), lambda: 1000, clock=lambda: 0.0)
    batches: list[list[Command]] = [
        [create("bytes", b"0" * 40_000), append("bytes", b"1" * 1000, producer=("p", 0, 0))],
        [create("json", b"[1,[2]]", content_type=JSON), create("empty"), create(LONG, b"x")],
        [
            append(
                "json", b'"' + b"x" * 40_000 + b'"', content_type=JSON, producer=("q" * 300, 1, 0)
            )
        ],
        [append("json", b"[3,4]", content_type=JSON), create("ttl", b"x", ttl=10)],
        [fork("fork", "bytes", 20_000, b"own"), fork("again", "fork", 100), fork("f", "json", 2)],
        [create("moment", expires_at=5000), create("held", b"abc", ttl=5), fork("of", "held", 2)],
        [delete("held"), create("gone", b"y"), append("gone", b"y", producer=("p", 0, 0))],
        [delete("gone")],
    ]
    for batch in batches:
        outcomes = committer.step(batch).outcomes
        assert all(hasattr(outcome, "state") for outcome in outcomes), outcomes
    return engine


def leaf_pages(data: bytes) -> dict[bytes, int]:
    """Return the offsets of leaf pages in an LMDB file, by their first key."""
    found: dict[bytes, int] = {}
    for begin in range(2 * 4096, len(data), 4096):
        number, _, flags, lower, _, first = struct.unpack_from("=QHHHHH", data, begin)
        if number * 4096 == begin and flags == 0x02 and lower > 16:
            key_size = struct.unpack_from("=H", data, begin + first + 6)[0]
            found[data[begin + first + 8 : begin + first + 8 + key_size]] = begin
    return found


class SwappedPagesTests(DurableStoreCase, SynchronousTestCase):
    """Two swapped pages: their records are valid and out of order."""

    damaged = True

    def test_ends(self) -> None:
        """A check ends with a finding for any pair of pages, and a backup fails."""
        self.submit_all(*[put(f"{number}", raw=b"%d;" % number * 200) for number in range(40)])
        self.result(self.store.close())
        path = os.path.join(self.directory, DATA_FILE)
        with open(path, "rb") as file:
            whole = file.read()
        keys = sorted(key for key in leaf_pages(whole) if key[:1] == b"d")
        self.assertGreater(len(keys), 2)
        walks = 0
        for first, second in combinations(keys, 2):
            one, other = (leaf_pages(whole)[key] for key in (first, second))
            swapped = bytearray(whole)
            swapped[one : one + 4096] = whole[other : other + 4096]
            swapped[other : other + 4096] = whole[one : one + 4096]
            with open(path, "wb") as file:
                file.write(swapped)
            # More findings than records: the check loops.
            with Inspection(self.directory) as store:
                findings = list(islice(find_flaws(store, deep=False), 1000))
            self.assertTrue(0 < len(findings) < 1000, (first, second))
            walks += any(finding.flaw is Flaw.UNREADABLE for finding in findings)
        self.assertGreater(walks, 0)
        backup = os.path.join(self.directory, "..", "backup")
        with self.assertRaisesRegex(FlawedStore, "has flaws"):
            back_up(self.directory, backup, (), lambda: 0, lambda *_: None)
        with open(path, "wb") as file:
            file.write(whole)
        self.store = self.open_store()


class CheckTests(SynchronousTestCase):
    """One store with one kind of damage at a time."""

    def setUp(self) -> None:
        self.engine = rich_store()

    def found(self, deep: bool = True) -> set[Flaw]:
        return {finding.flaw for finding in check(self.engine, deep)}

    def record(self, path: str) -> StreamRecord:
        with self.engine.snapshot() as view:
            record = reader.load_stream_at(view, path)
        assert record is not None
        return record

    def put(self, key: bytes, payload: bytes) -> None:
        self.engine.content[key] = codec.seal(key, payload)

    def put_data(self, key: bytes, flags: int, payload: bytes) -> None:
        self.engine.content[key] = codec.pack_data(key, flags, payload)

    def change(self, path: str, **fields: Any) -> None:
        """Replace fields of a stream's record."""
        record = self.record(path)
        own = {name: fields.pop(name) for name in ("indexed_at", "last_start") if name in fields}
        key = codec.stream_key(record.state.id)
        changed = replace(record, state=replace(record.state, **fields), **own)
        self.put(key, tables.STREAMS.pack(changed))

    def data_keys(self, path: str) -> list[bytes]:
        first, behind = codec.stream_ranges(self.record(path).state.id)[0]
        return sorted(key for key in self.engine.content if first <= key < behind)

    # -- no flaws ------------------------------------------------------------------------

    def test_sound(self) -> None:
        self.assertEqual(list(check(self.engine)), [])
        self.assertEqual(list(check(self.engine, deep=True)), [])

    def test_empty(self) -> None:
        engine = FakeEngine()
        check_format(engine, "the fake", 0)
        self.assertEqual(list(check(engine, deep=True)), [])

    def test_half_freed(self) -> None:
        """Records of an ended stream may be incomplete: they are deleted from the front."""
        garbage = [key for key in self.engine.content if key[:1] == b"g"]
        self.assertEqual(len(garbage), 1)
        (first, behind), _ = codec.stream_ranges(codec.unpack_integer(garbage[0][1:]))
        del self.engine.content[min(k for k in self.engine.content if first <= k < behind)]
        self.assertEqual(self.found(), set())

    # -- any damage -----------------------------------------------------------------------------

    @given(st.data())
    def test_any_flipped_bit(self, data: st.DataObject) -> None:
        engine = FakeEngine(self.engine.content)
        sealed = sorted(key for key, value in engine.content.items() if value)
        key = data.draw(st.sampled_from(sealed))
        value = bytearray(engine.content[key])
        bit = data.draw(st.integers(0, len(value) * 8 - 1))
        value[bit // 8] ^= 1 << bit % 8
        engine.content[key] = bytes(value)
        found = list(check(engine))
        if key == codec.META_KEY:
            # Plain JSON without a checksum: some flipped bits are harmless.
            self.assertLessEqual({finding.flaw for finding in found}, {Flaw.FORMAT})
        else:
            self.assertIn((Flaw.CORRUPT_RECORD, key), [(f.flaw, f.key) for f in found])

    @given(st.data())
    def test_any_lost_record(self, data: st.DataObject) -> None:
        engine = FakeEngine(self.engine.content)
        # Nothing else refers to producers, and deletion marks may be missing.
        (garbage,) = [key for key in engine.content if key[:1] == b"g"]
        known = [
            key
            for key in engine.content
            if key[:1] != b"q" and not (key[:1] == b"d" and key[1:9] == garbage[1:])
        ]
        del engine.content[data.draw(st.sampled_from(sorted(known)))]
        self.assertNotEqual(list(check(engine)), [])

    @given(st.binary(min_size=1, max_size=30), st.binary(max_size=30))
    def test_added_records(self, key: bytes, value: bytes) -> None:
        """A check reaches its end with any garbage record."""
        engine = FakeEngine(self.engine.content)
        if key in engine.content or key == codec.CHECKPOINT_KEY:
            # The checkpoint record is checked with the WAL.
            return
        if key[:1] == b"g" and len(key) == 9 and not value:
            # A deletion mark of an ended stream without records is harmless.
            return
        engine.content[key] = value
        self.assertNotEqual(list(check(engine, deep=True)), [], (key, value))

    def test_extreme_ids(self) -> None:
        """The check goes on after the largest id."""
        for prefix in (b"d", b"e", b"g", b"k", b"q", b"s", b"x"):
            for size in (8, 16):
                engine = FakeEngine(self.engine.content)
                engine.content[prefix + b"\xff" * size] = b""
                self.assertNotEqual(list(check(engine, deep=True)), [], (prefix, size))

    @given(st.data(), st.binary(max_size=30))
    def test_sealed_garbage(self, data: st.DataObject, payload: bytes) -> None:
        """A check reaches its end with garbage that has a valid checksum."""
        engine = FakeEngine(self.engine.content)
        key = data.draw(st.sampled_from(sorted(engine.content)))
        engine.content[key] = codec.seal(key, payload)
        list(check(engine, deep=True))

    # -- each flaw ------------------------------------------------------------------------------

    def test_unreadable(self) -> None:
        self.engine.plan = always("scan", Fault(EngineFailed))
        self.assertEqual(self.found(), {Flaw.UNREADABLE})

    def test_format(self) -> None:
        for meta in (
            codec.Meta(codec.FORMAT + 1, "9", 0),
            codec.Meta(0, "9", 0),
            codec.Meta(1, "9", 0, "another program's"),
        ):
            self.engine.content[codec.META_KEY] = codec.pack_meta(meta)
            self.assertEqual(self.found(), {Flaw.FORMAT})
        del self.engine.content[codec.META_KEY]
        self.assertEqual(self.found(), {Flaw.FORMAT})

    def test_strange_keys(self) -> None:
        for key in (b"\x00", b"A", b"f", b"i", b"l", b"m1", b"n1", b"r", b"v", b"y", b"\xff\xff"):
            self.engine.content[key] = b""
            self.assertEqual(
                list(check(self.engine)),
                [Finding(Flaw.STRANGE_KEY, key, "the prefix is unknown")],
            )
            del self.engine.content[key]

    def test_keys_of_strange_form(self) -> None:
        least = min(key for key in self.engine.content if key[:1] == b"s")
        number = codec.unpack_integer(least[1:])
        stream = codec.stream_key(number)
        for key in (
            b"d",
            b"d\x01",
            b"q\xff",
            stream + b"\x00",
            b"s",
            codec.data_key(number, 0) + b"\x00",
            codec.deadline_key(1, number) + b"\x00",
            b"x",
            b"g" + bytes(9),
            b"q" + codec.pack_integer(number) + b"?",
            b"q" + codec.pack_integer(number) + b"#x",
        ):
            self.engine.content[key] = b""
            self.assertIn(Flaw.STRANGE_KEY, self.found(), key)
            del self.engine.content[key]

    def test_next_id(self) -> None:
        greatest = max(
            codec.unpack_integer(key[1:9]) for key in self.engine.content if key[:1] in b"sgd"
        )
        for number, expected in ((greatest, {Flaw.NEXT_ID}), (greatest + 5, set())):
            self.put(codec.NEXT_ID_KEY, codec.pack_integer(number))
            self.assertEqual(self.found(), expected)

    def test_next_id_of_what_is_gone(self) -> None:
        """Ids of orphaned data, producers and deletion marks count as used."""
        self.put(codec.NEXT_ID_KEY, codec.pack_integer(500))
        for key, payload in (
            (codec.data_key(500, 0), b"\x00x"),
            (codec.producer_key(500, 0, b"=p"), b"\x92\x00\x00"),
        ):
            self.put(key, payload)
            self.assertEqual(self.found(), {Flaw.NEXT_ID, Flaw.ORPHAN})
            del self.engine.content[key]
        self.engine.content[codec.garbage_key(500)] = b""
        self.assertEqual(self.found(), {Flaw.NEXT_ID})

    def test_paths(self) -> None:
        other = self.record("json").state.id
        for path in ("bytes", LONG):
            whole = dict(self.engine.content)
            key = codec.path_key(path)
            self.put(key, codec.pack_path(path, other))
            self.assertEqual(self.found(), {Flaw.PATH}, "it leads to another stream")
            self.put(key, codec.pack_path(path, 999))
            self.assertEqual(self.found(), {Flaw.PATH}, "it leads to none")
            del self.engine.content[key]
            self.assertEqual(self.found(), {Flaw.PATH}, "nothing leads to the stream")
            self.engine.content = whole
        self.put(codec.path_key("second"), codec.pack_path("second", other))
        self.assertEqual(self.found(), {Flaw.PATH}, "two lead to one stream")

    def test_long_path(self) -> None:
        """The record of a long path has the full path after its hash."""
        state = self.record(LONG).state
        self.put(codec.path_key(LONG), codec.pack_path(LONG[:-1] + "y", state.id))
        self.assertEqual(self.found(), {Flaw.PATH})

    def test_stream_records(self) -> None:
        self.change("bytes", closed_by=ProducerClaim("p", 0, 0))
        self.assertEqual(self.found(), {Flaw.STREAM})

    def test_stream_record_of_another(self) -> None:
        record = self.record("empty")
        self.put(
            codec.stream_key(record.state.id),
            tables.STREAMS.pack(replace(record, state=replace(record.state, id=999))),
        )
        self.assertEqual(self.found(), {Flaw.STREAM, Flaw.PATH})

    def test_tail(self) -> None:
        tail = self.record("bytes").state.tail
        for wrong in (tail - 1, tail + 1):
            self.change("bytes", tail=wrong)
            self.assertEqual(self.found(), {Flaw.DATA})
        self.change("bytes", tail=tail)
        self.change("empty", tail=1)
        self.assertEqual(self.found(), {Flaw.DATA})

    def test_last_start(self) -> None:
        start = self.record("bytes").last_start
        for wrong in (None, 0, 999):
            self.change("bytes", last_start=wrong)
            self.assertEqual(self.found(), {Flaw.DATA})
        self.change("bytes", last_start=start)
        self.change("empty", last_start=0)
        self.assertEqual(self.found(), {Flaw.DATA})

    def test_gaps_and_overlaps(self) -> None:
        keys = self.data_keys("bytes")
        self.assertGreater(len(keys), 3)
        for key in keys:
            whole = dict(self.engine.content)
            del self.engine.content[key]
            self.assertEqual(self.found(), {Flaw.DATA})
            self.engine.content = dict(whole)
            self.put_data(key, 0, b"short")
            self.assertEqual(self.found(), {Flaw.DATA})
            self.put_data(key, 0, b"")
            self.assertEqual(self.found(), {Flaw.DATA})
            self.engine.content = dict(whole)
            between = codec.data_key(self.record("bytes").state.id, codec.position_of(key) + 1)
            self.put_data(between, 0, b"x")
            self.assertEqual(self.found(), {Flaw.DATA})
            self.engine.content = whole

    def test_bytes_before_a_fork_point(self) -> None:
        self.put_data(codec.data_key(self.record("again").state.id, 99), 0, b"x")
        self.assertEqual(self.found(), {Flaw.DATA})

    def test_large_records(self) -> None:
        (key,) = self.data_keys(LONG)
        for size, expected in ((RECORD_PAYLOAD, set()), (RECORD_PAYLOAD + 1, {Flaw.DATA})):
            self.put_data(key, 0, bytes(size))
            self.change(LONG, tail=size)
            self.assertEqual(len(self.engine.content[key]) > MAX_RECORD, bool(expected))
            self.assertEqual(self.found(), expected)

    def test_flags(self) -> None:
        """Flags occur in JSON mode only, and those of adjacent records match."""
        (key,) = self.data_keys(LONG)
        for flags in (codec.STARTS_MID_MESSAGE, codec.ENDS_MID_MESSAGE, 4):
            self.put_data(key, flags, b"x")
            self.assertEqual(self.found(), {Flaw.MESSAGES})
        self.put_data(key, 0, b"x")
        for key in self.data_keys("json"):
            flags, payload = codec.unpack_data(key, self.engine.content[key])
            for wrong in {0, 1, 2, 3, 4} - {flags}:
                self.put_data(key, wrong, bytes(payload))
                self.assertIn(Flaw.MESSAGES, self.found(deep=False))
            self.put_data(key, flags, bytes(payload))
        self.assertEqual(self.found(), set())

    def test_messages(self) -> None:
        """A deep check parses the messages of JSON streams."""
        first, *_, last = self.data_keys("json")
        flags, payload = codec.unpack_data(last, self.engine.content[last])
        self.put_data(last, flags, bytes(payload)[:-1] + b" ")
        self.assertEqual(self.found(deep=False), {Flaw.MESSAGES})
        self.put_data(last, flags, bytes(payload)[:-2] + b"],")
        self.assertEqual(self.found(deep=False), set())
        self.assertEqual(self.found(), {Flaw.MESSAGES})
        self.put_data(last, flags, bytes(payload))
        self.put_data(first, 0, b"1,[2],".replace(b"[2]", b"2,3"))
        self.assertEqual(self.found(), set())

    def test_cut_messages(self) -> None:
        """A message that spans records is parsed as one."""
        keys = self.data_keys("json")[1:4]
        pieces = [codec.unpack_data(key, self.engine.content[key]) for key in keys]
        self.assertEqual([flags for flags, _ in pieces], [2, 3, 1])
        torn = bytearray(pieces[1][1])
        torn[5:8] = b'","'
        self.put_data(keys[1], 3, bytes(torn))
        self.assertEqual(self.found(deep=False), set())
        self.assertEqual(self.found(), {Flaw.MESSAGES})

    def test_a_bad_record_hides_no_other(self) -> None:
        keys = self.data_keys("bytes")
        value = bytearray(self.engine.content[keys[0]])
        value[10] ^= 1
        self.engine.content[keys[0]] = bytes(value)
        self.assertEqual(self.found(), {Flaw.CORRUPT_RECORD})
        del self.engine.content[keys[2]]
        self.assertEqual(self.found(), {Flaw.CORRUPT_RECORD, Flaw.DATA})

    def test_what_a_bad_stream_record_owns(self) -> None:
        key = codec.stream_key(self.record("bytes").state.id)
        data = self.data_keys("bytes")[0]
        for damaged in (key, data):
            value = bytearray(self.engine.content[damaged])
            value[-1] ^= 1
            self.engine.content[damaged] = bytes(value)
        found = [finding.key for finding in check(self.engine)]
        self.assertEqual(found, [key, data])

    def test_deadlines(self) -> None:
        record = self.record("ttl")
        assert record.indexed_at is not None
        entry = codec.deadline_key(record.indexed_at, record.state.id)
        later = codec.deadline_key(record.indexed_at + 1, record.state.id)
        earlier = codec.deadline_key(record.indexed_at - 1, record.state.id)
        for extra in (later, earlier, codec.deadline_key(1, 999)):
            self.engine.content[extra] = b""
            self.assertEqual(self.found(), {Flaw.DEADLINE})
            del self.engine.content[extra]
        del self.engine.content[entry]
        self.assertEqual(self.found(), {Flaw.DEADLINE})
        self.engine.content[later] = b""
        self.change("ttl", indexed_at=record.indexed_at + 1)
        self.assertEqual(self.found(), {Flaw.DEADLINE}, "it would end too late")
        del self.engine.content[later]
        self.engine.content[earlier] = b""
        self.change("ttl", indexed_at=record.indexed_at - 1)
        self.assertEqual(self.found(), set(), "it would be looked at too early")
        del self.engine.content[earlier]
        self.change("ttl", indexed_at=None)
        self.assertEqual(self.found(), {Flaw.DEADLINE})

    def test_deadline_of_what_never_ends(self) -> None:
        for path in ("empty", "held"):
            whole = dict(self.engine.content)
            self.change(path, indexed_at=5000)
            self.engine.content[codec.deadline_key(5000, self.record(path).state.id)] = b""
            self.assertEqual(self.found(), {Flaw.DEADLINE})
            self.engine.content = whole

    def test_garbage(self) -> None:
        self.engine.content[codec.garbage_key(self.record("bytes").state.id)] = b""
        self.assertEqual(self.found(), {Flaw.GARBAGE})

    def test_garbage_is_checked_too(self) -> None:
        (garbage,) = [key for key in self.engine.content if key[:1] == b"g"]
        for first, behind in codec.stream_ranges(codec.unpack_integer(garbage[1:])):
            (key,) = [key for key in self.engine.content if first <= key < behind]
            self.engine.content[key] += b"x"
        self.assertEqual(
            [finding.flaw for finding in check(self.engine)], [Flaw.CORRUPT_RECORD] * 2
        )

    def test_orphans(self) -> None:
        (garbage,) = [key for key in self.engine.content if key[:1] == b"g"]
        del self.engine.content[garbage]
        found = list(check(self.engine))
        self.assertEqual([finding.flaw for finding in found], [Flaw.ORPHAN] * 2)
        self.assertEqual({finding.key[:1] for finding in found}, {b"d", b"q"})

    def test_producers(self) -> None:
        key = codec.producer_key(self.record("bytes").state.id, 0, b"=p")
        self.put(key, b"\x90")
        self.assertEqual(self.found(), {Flaw.CORRUPT_RECORD})

    # -- forks ------------------------------------------------------------------------------------

    def test_fork_counts(self) -> None:
        for path, wrong in (("bytes", 2), ("fork", 2), ("empty", 1), ("again", 3)):
            whole = dict(self.engine.content)
            self.change(path, forks=wrong)
            self.assertEqual(self.found(), {Flaw.FORK})
            self.engine.content = whole
        self.change("bytes", forks=0)
        self.assertEqual(self.found(), {Flaw.FORK})

    def test_fork_counts_in_portions(self) -> None:
        """Fork counts are checked with any number of sources per pass."""
        for portion in (1, 2, 3):
            self.patch(checking, "_SOURCES_PER_PASS", portion)
            self.assertEqual(self.found(), set())
            whole = dict(self.engine.content)
            for path in ("bytes", "fork", "json", "held"):
                self.change(path, forks=self.record(path).state.forks + 1)
                self.assertEqual(len(list(check(self.engine))), 1)
                self.engine.content = dict(whole)

    def test_deleted_without_forks(self) -> None:
        self.change("empty", deleted=True)
        self.assertEqual(self.found(), {Flaw.FORK})

    def change_fork(self, path: str, **fields: Any) -> None:
        fork = self.record(path).state.fork
        assert fork is not None
        self.change(path, fork=replace(fork, **fields))

    def test_fork_points(self) -> None:
        self.change_fork("again", depth=1)
        self.assertEqual(self.found(), {Flaw.FORK})
        self.change_fork("again", depth=2)
        for source_id in (999, self.record("again").state.id):
            self.change_fork("of", source_id=source_id)
            self.assertIn(Flaw.FORK, self.found())
        self.change_fork("of", source_id=self.record("held").state.id)
        self.change_fork("of", position=4)
        self.change("of", tail=4)
        self.assertEqual(self.found(), {Flaw.FORK}, "the source does not reach so far")

    def test_fork_of_another_type(self) -> None:
        self.change("of", content_type="text/plain")
        self.assertEqual(self.found(), {Flaw.FORK})

    def test_fork_inside_a_message(self) -> None:
        self.change_fork("f", position=1)
        self.change("f", tail=1)
        self.assertEqual(self.found(deep=False), set())
        self.assertEqual(self.found(), {Flaw.FORK})


class DirectoryTests(SynchronousTestCase):
    """Stores on disk that no server uses."""

    def test_no_store(self) -> None:
        """A check creates no store."""
        directory = self.mktemp()
        with self.assertRaisesRegex(StoreUnusable, "no store"):
            check_directory(directory)
        self.assertFalse(os.path.exists(directory))
