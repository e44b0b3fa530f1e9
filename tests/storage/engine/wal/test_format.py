"""The journal's bytes: what is written is read, and what is torn or damaged is not."""

from __future__ import annotations

from zlib import crc32

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from durable_streams_tw.storage.engine.wal import format
from durable_streams_tw.storage.engine.wal.format import (
    HEAD_SIZE,
    Entry,
    Head,
    Pairs,
    cut_off,
    following,
    pack_entry,
    pack_head,
    run,
    unpack_head,
)

LINEAGE = b"0123456789abcdef"

batches = st.lists(
    st.dictionaries(st.binary(min_size=1, max_size=5), st.none() | st.binary(max_size=9)),
    max_size=6,
)


def journal(
    contents: list[Pairs], first: int = 1, lineage: bytes = LINEAGE, behind: bytes = b""
) -> bytes:
    """A file with so many entries, numbered from ``first`` on."""
    entries = [pack_entry(lineage, first + n, pairs) for n, pairs in enumerate(contents)]
    head = pack_head(Head(lineage, 1000))
    return head + bytes(HEAD_SIZE - len(head)) + b"".join(entries) + behind


class HeadTests(SynchronousTestCase):
    """Whose file it is."""

    def test_read_back(self) -> None:
        self.assertEqual(unpack_head(journal([])), Head(LINEAGE, 1000))
        self.assertIsNone(unpack_head(b""))
        self.assertIsNone(unpack_head(bytes(HEAD_SIZE)))

    def test_damaged(self) -> None:
        whole = bytearray(pack_head(Head(LINEAGE, 1000)))
        for index in range(len(whole)):
            whole[index] ^= 1
            self.assertIsNone(unpack_head(bytes(whole)))
            whole[index] ^= 1


class RunTests(SynchronousTestCase):
    """The entries of a file."""

    @given(batches, st.integers(1, 2**40))
    def test_read_back(self, contents: list[Pairs], first: int) -> None:
        data = journal(contents, first, behind=bytes(50))
        entries = run(data, LINEAGE)
        self.assertEqual([entry.pairs for entry in entries], contents)
        self.assertEqual(
            [entry.number for entry in entries], list(range(first, first + len(contents)))
        )
        self.assertEqual(sum(entry.size for entry in entries) + HEAD_SIZE + 50, len(data))
        self.assertIsNone(cut_off(data, LINEAGE, entries, 0))

    def test_torn_anywhere(self) -> None:
        """A write that was cut short leaves the entries before it."""
        contents: list[Pairs] = [{b"a": b"1"}, {b"b": None, b"c": b"x" * 40}, {b"d": b"2"}]
        data = journal(contents)
        ends = [HEAD_SIZE]
        for entry in run(data, LINEAGE):
            ends.append(ends[-1] + entry.size)
        for length in range(HEAD_SIZE, len(data)):
            found = run(data[:length], LINEAGE)
            self.assertEqual(len(found), len([end for end in ends[1:] if end <= length]))
            self.assertIsNone(cut_off(data[:length], LINEAGE, found, 0))

    def test_any_bit(self) -> None:
        """No entry with a wrong bit is taken for one; that newer ones are cut off is noticed."""
        contents: list[Pairs] = [{b"a": b"1"}, {b"b": None}, {b"c": b"2"}]
        data = journal(contents)
        first, second, _ = run(data, LINEAGE)
        begin = HEAD_SIZE + first.size
        for index in range(begin, begin + second.size):
            for bit in range(8):
                wrong = bytearray(data)
                wrong[index] ^= 1 << bit
                found = run(bytes(wrong), LINEAGE)
                self.assertEqual(found, [first])
                self.assertEqual(cut_off(bytes(wrong), LINEAGE, found, 0), 3)

    def test_used_again(self) -> None:
        """What is left of older entries is neither taken nor missed."""
        old = journal([{b"old": b"%d" % n} for n in range(10)])
        for count in range(4):
            new = journal([{b"new": b"%d" % n} for n in range(count)], first=11)
            data = new + old[len(new) :]
            entries = run(data, LINEAGE)
            if count:
                self.assertEqual([entry.number for entry in entries], list(range(11, 11 + count)))
            self.assertIsNone(cut_off(data, LINEAGE, entries, 10))
            # The first of the new ones is torn.
            torn = new[: HEAD_SIZE + 3] + b"\xff" * 5 + old[HEAD_SIZE + 8 :]
            self.assertEqual(run(torn, LINEAGE), [])
            self.assertIsNone(cut_off(torn, LINEAGE, [], 10))

    def test_bytes_of_clients(self) -> None:
        """Bytes that look like an entry are none without the lineage."""
        forged = pack_entry(b"?" * 16, 9, {b"a": b"forged"})
        data = journal([{b"a": forged}], behind=forged)
        self.assertEqual(len(run(data, LINEAGE)), 1)
        self.assertIsNone(cut_off(data, LINEAGE, run(data, LINEAGE), 0))

    def test_beginnings_of_clients(self) -> None:
        """Nothing behind what looks like the beginning of an entry is looked at: there may be
        hundreds of thousands, each of the rest of the file."""
        forged = pack_entry(b"?" * 16, 9, {b"a": b"x" * 5000})[:24]
        data = journal([{b"a": b"1"}], behind=forged * 100 + bytes(5000))
        looked: list[int] = []

        def noting(piece: bytes, start: int = 0) -> int:
            looked.append(len(piece))
            return crc32(piece, start)

        self.patch(format, "crc32", noting)
        self.assertIsNone(cut_off(data, LINEAGE, run(data, LINEAGE), 0))
        self.assertLess(max(looked), 100)

    def test_not_pairs(self) -> None:
        """An entry of something else is none."""
        entry = pack_entry(LINEAGE, 1, {b"a": b"1"})
        wrong: Pairs = {"text": 1}  # type: ignore[dict-item]
        self.assertEqual(len(run(journal([], behind=entry), LINEAGE)), 1)
        self.assertEqual(run(journal([wrong]), LINEAGE), [])


class FollowingTests(SynchronousTestCase):
    """What the map does not have yet."""

    def numbers(self, applied: int, *numbers: int) -> list[int]:
        entries = [Entry(number, {}, 0) for number in numbers]
        return [entry.number for entry in following(entries, applied)]

    def test_order(self) -> None:
        self.assertEqual(self.numbers(3, 5, 6, 2, 3, 4), [4, 5, 6])
        self.assertEqual(self.numbers(6, 5, 6), [])
        self.assertEqual(self.numbers(0), [])

    def test_gap(self) -> None:
        """Nothing behind a gap is taken."""
        self.assertEqual(self.numbers(3, 5, 6), [])
        self.assertEqual(self.numbers(3, 4, 6), [4])
