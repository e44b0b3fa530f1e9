"""Tests of the WAL format: entries round-trip; torn and damaged ones are not read."""

from __future__ import annotations

from zlib import crc32

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from durable_streams_tw.storage.engine.wal import format
from durable_streams_tw.storage.engine.wal.format import (
    HEADER_SIZE,
    Entry,
    Pairs,
    SegmentHeader,
    consecutive_after,
    find_later_entry,
    pack_entry,
    pack_header,
    read_entries,
    unpack_header,
)

WAL_ID = b"0123456789abcdef"

batches = st.lists(
    st.dictionaries(st.binary(min_size=1, max_size=5), st.none() | st.binary(max_size=9)),
    max_size=6,
)


def segment(
    contents: list[Pairs], first: int = 1, wal_id: bytes = WAL_ID, trailing: bytes = b""
) -> bytes:
    """Return a segment with ``count`` entries, numbered from ``first``."""
    entries = [pack_entry(wal_id, first + n, pairs) for n, pairs in enumerate(contents)]
    head = pack_header(SegmentHeader(wal_id, 1000))
    return head + bytes(HEADER_SIZE - len(head)) + b"".join(entries) + trailing


class HeaderTests(SynchronousTestCase):
    """Segment headers."""

    def test_read_back(self) -> None:
        self.assertEqual(unpack_header(segment([])), SegmentHeader(WAL_ID, 1000))
        self.assertIsNone(unpack_header(b""))
        self.assertIsNone(unpack_header(bytes(HEADER_SIZE)))

    def test_damaged(self) -> None:
        whole = bytearray(pack_header(SegmentHeader(WAL_ID, 1000)))
        for index in range(len(whole)):
            whole[index] ^= 1
            self.assertIsNone(unpack_header(bytes(whole)))
            whole[index] ^= 1


class ReadEntriesTests(SynchronousTestCase):
    """Entries of a segment."""

    @given(batches, st.integers(1, 2**40))
    def test_read_back(self, contents: list[Pairs], first: int) -> None:
        data = segment(contents, first, trailing=bytes(50))
        entries = read_entries(data, WAL_ID)
        self.assertEqual([entry.pairs for entry in entries], contents)
        self.assertEqual(
            [entry.number for entry in entries], list(range(first, first + len(contents)))
        )
        self.assertEqual(sum(entry.size for entry in entries) + HEADER_SIZE + 50, len(data))
        self.assertIsNone(find_later_entry(data, WAL_ID, entries, 0))

    def test_torn_anywhere(self) -> None:
        """After a short write, the entries before it are read."""
        contents: list[Pairs] = [{b"a": b"1"}, {b"b": None, b"c": b"x" * 40}, {b"d": b"2"}]
        data = segment(contents)
        ends = [HEADER_SIZE]
        for entry in read_entries(data, WAL_ID):
            ends.append(ends[-1] + entry.size)
        for length in range(HEADER_SIZE, len(data)):
            found = read_entries(data[:length], WAL_ID)
            self.assertEqual(len(found), len([end for end in ends[1:] if end <= length]))
            self.assertIsNone(find_later_entry(data[:length], WAL_ID, found, 0))

    def test_any_bit(self) -> None:
        """An entry with a flipped bit is not read, and later entries prove the damage."""
        contents: list[Pairs] = [{b"a": b"1"}, {b"b": None}, {b"c": b"2"}]
        data = segment(contents)
        first, second, _ = read_entries(data, WAL_ID)
        begin = HEADER_SIZE + first.size
        for index in range(begin, begin + second.size):
            for bit in range(8):
                wrong = bytearray(data)
                wrong[index] ^= 1 << bit
                found = read_entries(bytes(wrong), WAL_ID)
                self.assertEqual(found, [first])
                self.assertEqual(find_later_entry(bytes(wrong), WAL_ID, found, 0), 3)

    def test_used_again(self) -> None:
        """Remains of older entries are neither read nor reported as missing."""
        old = segment([{b"old": b"%d" % n} for n in range(10)])
        for count in range(4):
            new = segment([{b"new": b"%d" % n} for n in range(count)], first=11)
            data = new + old[len(new) :]
            entries = read_entries(data, WAL_ID)
            if count:
                self.assertEqual([entry.number for entry in entries], list(range(11, 11 + count)))
            self.assertIsNone(find_later_entry(data, WAL_ID, entries, 10))
            # The first new entry is torn.
            torn = new[: HEADER_SIZE + 3] + b"\xff" * 5 + old[HEADER_SIZE + 8 :]
            self.assertEqual(read_entries(torn, WAL_ID), [])
            self.assertIsNone(find_later_entry(torn, WAL_ID, [], 10))

    def test_bytes_of_clients(self) -> None:
        """Bytes that look like an entry are not one without the WAL id."""
        forged = pack_entry(b"?" * 16, 9, {b"a": b"forged"})
        data = segment([{b"a": forged}], trailing=forged)
        self.assertEqual(len(read_entries(data, WAL_ID)), 1)
        self.assertIsNone(find_later_entry(data, WAL_ID, read_entries(data, WAL_ID), 0))

    def test_beginnings_of_clients(self) -> None:
        """Only the first bytes of a false entry are read: a segment may have hundreds of thousands,
        and each could claim the rest of the file."""
        forged = pack_entry(b"?" * 16, 9, {b"a": b"x" * 5000})[:24]
        data = segment([{b"a": b"1"}], trailing=forged * 100 + bytes(5000))
        looked: list[int] = []

        def noting(piece: bytes, start: int = 0) -> int:
            looked.append(len(piece))
            return crc32(piece, start)

        self.patch(format, "crc32", noting)
        self.assertIsNone(find_later_entry(data, WAL_ID, read_entries(data, WAL_ID), 0))
        self.assertLess(max(looked), 100)

    def test_not_pairs(self) -> None:
        """A payload of another type is not an entry."""
        entry = pack_entry(WAL_ID, 1, {b"a": b"1"})
        wrong: Pairs = {"text": 1}  # type: ignore[dict-item]
        self.assertEqual(len(read_entries(segment([], trailing=entry), WAL_ID)), 1)
        self.assertEqual(read_entries(segment([wrong]), WAL_ID), [])


class ConsecutiveTests(SynchronousTestCase):
    """Entries that LMDB lacks."""

    def numbers(self, applied: int, *numbers: int) -> list[int]:
        entries = [Entry(number, {}, 0) for number in numbers]
        return [entry.number for entry in consecutive_after(entries, applied)]

    def test_order(self) -> None:
        self.assertEqual(self.numbers(3, 5, 6, 2, 3, 4), [4, 5, 6])
        self.assertEqual(self.numbers(6, 5, 6), [])
        self.assertEqual(self.numbers(0), [])

    def test_gap(self) -> None:
        """Entries after a gap are left out."""
        self.assertEqual(self.numbers(3, 5, 6), [])
        self.assertEqual(self.numbers(3, 4, 6), [4])
