"""Small chunks are merged; bytes, positions and message boundaries stay."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from durable_streams_tw.protocol.streams.state import StreamState
from durable_streams_tw.storage.api import Chunk
from durable_streams_tw.storage.postgres.connection import connect
from durable_streams_tw.storage.postgres.packing import (
    BEFORE_ALL,
    PACKED_ROWS,
    NewChunks,
    PackingQueue,
    find_unpacked,
    merge,
)
from durable_streams_tw.storage.postgres.store import PostgresStore
from tests.storage.postgres.store_case import PostgresStoreCase
from tests.storage.store_case import JSON, post, put

SMALL = b"x" * 100


class MergeTests(SynchronousTestCase):
    """Selection of rows to merge."""

    def runs(self, *rows: tuple[int, bytes]) -> list[list[int]]:
        """Return positions of the runs; ``rows`` are flags and bytes, one after the other."""
        placed, position = [], 0
        for flags, data in rows:
            placed.append((position, flags, data))
            position += len(data)
        return [[at for at, _ in run] for run in merge(placed)]

    def test_last_row_stays(self) -> None:
        self.assertEqual(self.runs((0, b"a"), (0, b"b"), (0, b"c")), [[0, 1]])
        self.assertEqual(self.runs((0, b"a"), (0, b"b")), [])

    def test_parts_of_messages_and_large_rows_stay(self) -> None:
        large = b"y" * 8192
        rows = ((0, b"a"), (0, b"b"), (2, b"c"), (1, b"d"), (0, b"e"), (0, large), (0, b"f"))
        self.assertEqual(self.runs(*rows, (0, b"g")), [[0, 1]])

    def test_merged_rows_have_a_bound(self) -> None:
        rows = [(0, b"z" * 8000)] * 20
        self.assertEqual([len(run) for run in self.runs(*rows)], [8, 8, 3])


class QueueTests(SynchronousTestCase):
    """Conditions for packing a stream."""

    def test_after_enough_rows(self) -> None:
        queue = PackingQueue()
        for position in range(PACKED_ROWS - 1):
            queue.add({1: NewChunks(position, 1), 2: NewChunks(0)})
        self.assertEqual(queue.take(), {})
        queue.add({1: NewChunks(99, 1)})
        self.assertTrue(queue)
        self.assertEqual(queue.take(), {1: 0})
        self.assertFalse(queue)

    def test_in_steps(self) -> None:
        queue = PackingQueue()
        queue.add({number: NewChunks(number, PACKED_ROWS) for number in range(5)})
        self.assertEqual([queue.take(2), queue.take(2)], [{0: 0, 1: 1}, {2: 2, 3: 3}])
        self.assertEqual(queue.take(), {4: 4})


class PackedStreamTests(PostgresStoreCase, SynchronousTestCase):
    """Streams of a store before and after."""

    store: PostgresStore

    def rows(self) -> int:
        with connect(self.settings) as connection:
            row = connection.execute("SELECT count(*) FROM chunk").fetchone()
        assert row is not None
        return int(row[0])

    def test_bytes_and_boundaries(self) -> None:
        """All reads of a packed stream return what they returned before."""
        self.created(put(content_type=JSON))
        for number in range(3 * PACKED_ROWS):
            self.appended(post(b'[%d, "%d"]' % (number, number), content_type=JSON))
        state = self.state_of()
        before = self.rows()
        self.store._chunks.clear()
        self.node.sweep()
        self.assertLess(self.rows(), before // 10)
        expected = b"".join([b'%d,"%d",' % (n, n) for n in range(3 * PACKED_ROWS)])
        self.assertEqual(self.content(), expected)
        starts = [at + 1 for at, byte in enumerate(expected) if byte == ord(",")]
        for start in starts[:50]:
            chunk = self.result(self.store.read("a", start, 10))
            assert isinstance(chunk, Chunk), chunk
            self.assertTrue(expected.startswith(chunk.data, start))
        self.assertIsInstance(state, StreamState)
        self.appended(post(b"1", content_type=JSON))
        self.assertEqual(self.content(), expected + b"1,")

    def test_rows_of_before_a_restart(self) -> None:
        """A node packs the small rows that it has written before its start, in all streams."""
        paths = [f"s/{number}" for number in range(70)]
        self.submit_all(*[put(path) for path in paths])
        for _ in range(PACKED_ROWS + 1):
            self.submit_all(*[post(SMALL, path) for path in paths])
        self.created(put("large", raw=bytes(2**20)))
        self.assertEqual(self.rows(), 70 * (PACKED_ROWS + 1) + 16)
        self.restart()
        for _ in range(4):
            self.node.sweep()
        self.assertEqual(self.rows(), 70 * 2 + 16)
        self.assertEqual(self.content(paths[-1]), (PACKED_ROWS + 1) * SMALL)

    def test_long_stream_of_before_a_restart(self) -> None:
        """Rows after those of one page are found, too."""
        self.created(put(raw=bytes(2**20)))
        with connect(self.settings) as connection:
            connection.execute(
                "INSERT INTO chunk SELECT stream_id, 1048576 + i, 0, 'x' FROM chunk, "
                "generate_series(0, 2499) i WHERE position = 0"
            )
        queue = PackingQueue()
        with connect(self.settings) as connection:
            after = find_unpacked(connection, queue, BEFORE_ALL)
            assert after is not None
            self.assertEqual(list(queue.take().values()), [2**20])
            self.assertIsNone(find_unpacked(connection, queue, after))

    def test_long_stream_in_steps(self) -> None:
        """One step of the sweep reads a part of a long stream, and the next ones the rest."""
        self.created(put(raw=b"x"))
        with connect(self.settings) as connection:
            connection.execute(
                "INSERT INTO chunk SELECT stream_id, 1 + i, 0, 'x' FROM chunk, "
                "generate_series(0, 4998) i WHERE position = 0"
            )
        self.restart()
        result = self.store._background._sweep_step()
        assert result is not None and result.more, result
        self.assertGreater(self.rows(), 3_000)
        self.node.sweep()
        self.assertLess(self.rows(), 10)

    def test_deleted_before_it_is_packed(self) -> None:
        self.created(put())
        for _ in range(PACKED_ROWS):
            self.appended(post(SMALL))
        self.deleted()
        self.node.sweep()
        self.assertEqual(self.rows(), 0)
