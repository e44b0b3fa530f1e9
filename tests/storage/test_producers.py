"""Tests of the bounded number of producers, on both stores."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from durable_streams_tw.protocol.streams.producers import Generation
from durable_streams_tw.storage.api import IStreamStore
from durable_streams_tw.storage.durable.store import DurableStore
from durable_streams_tw.storage.engine import codec, tables
from durable_streams_tw.storage.engine.codec import StreamRecord, producer_key
from durable_streams_tw.storage.memory.store import MemoryStore
from tests.storage.command_builders import append, create, delete
from tests.storage.durable.committer_case import CommitterCase
from tests.storage.durable.store_case import DurableStoreCase
from tests.storage.suites.producer_suite import MOST, ProducerSuite


class GenerationTests(SynchronousTestCase):
    """Generations."""

    def test_joined(self) -> None:
        generation = Generation()
        seen = []
        for _ in range(7):
            generation = generation.joined(3)
            seen.append((generation.number, generation.size))
        self.assertEqual(seen, [(0, 1), (0, 2), (0, 3), (1, 1), (1, 2), (1, 3), (2, 1)])
        self.assertEqual(
            [generation.remembers(number) for number in range(4)], [False, True, True, True]
        )

    def test_no_bound(self) -> None:
        self.assertEqual(Generation(0, 10**6).joined(0), Generation(0, 10**6 + 1))


class MemoryProducerTests(ProducerSuite, SynchronousTestCase):
    """Memory store, whose restarts do nothing."""

    def make_store(self) -> IStreamStore:
        return MemoryStore(lambda: self.now, max_producers=MOST)

    def test_memory(self) -> None:
        """Forgotten producers leave nothing in memory."""
        for number in range(100):
            self.known(f"p{number}")
        assert isinstance(self.store, MemoryStore)
        (log,) = self.store._logs.values()
        self.assertLessEqual(len(log.producers) + len(log.earlier), 2 * MOST)


class LMDBProducerTests(ProducerSuite, DurableStoreCase, SynchronousTestCase):
    """Durable store."""

    store: DurableStore
    max_producers = MOST

    def producers(self) -> int:
        """Return the number of producer records."""
        with self.store._engine.snapshot() as view:
            return sum(1 for _ in view.scan(b"q", b"r"))

    def test_disk(self) -> None:
        """The sweep deletes the records of forgotten producers."""
        for number in range(100):
            self.known(f"p{number}")
        self.sweep(self.store)
        self.assertLessEqual(self.producers(), 2 * MOST)
        with self.store._engine.snapshot() as view:
            self.assertEqual(list(view.scan(*codec.GARBAGE)), [])
        self.restart()
        self.assertTrue(self.known("p99"))


class ProducerRecordTests(CommitterCase):
    """Producer records on disk."""

    max_producers = MOST

    def producers(self) -> list[tuple[int, bytes]]:
        """Return generation and name of each producer, in order."""
        return [
            codec.parse_producer_key(key) for key in sorted(self.engine.content) if key[:1] == b"q"
        ]

    def append(self, *names: str, seq: int = 0) -> None:
        self.step(*[append("a", b"x", producer=(name, 0, seq)) for name in names])

    def test_one_generation_each(self) -> None:
        """A producer is in one generation at a time."""
        self.step(create("a"))
        self.append("a", "b", "c", "d")
        self.append("a", seq=1)
        self.assertEqual(self.producers(), [(0, b"=b"), (0, b"=c"), (1, b"=a"), (1, b"=d")])
        self.append("a", seq=2)
        self.assertEqual(len(self.producers()), 4)

    def test_few_calls(self) -> None:
        """An append of a known producer causes no read and one additional put."""
        self.step(create("a"))
        self.append("p")
        self.engine.calls.clear()
        self.append("p", seq=1)
        calls = self.engine.calls
        self.assertEqual((calls["get"], calls["scan"], calls["put"], calls["delete"]), (0, 0, 3, 0))

    def test_a_store_of_format_3(self) -> None:
        """The producers of a store of format 3 are the first generation."""
        self.step(create("a"))
        state = self.state("a")
        assert state is not None
        for number in range(20):
            key = producer_key(state.id, 0, b"=p%d" % number)
            self.engine.content[key] = codec.seal(key, b"\x92\x00\x00")
        key = codec.stream_key(state.id)
        with self.engine.snapshot() as view:
            old = tables.STREAMS.unpack(key, bytes(view.get(key) or b""))
        packed = tables.STREAMS.pack(StreamRecord(old.state, old.indexed_at, old.last_start))
        # A record of three fields: the last one is the generation.
        self.engine.content[key] = codec.seal(key, b"\x93" + packed[1:-3])
        self.restart()
        self.append(*[f"p{number}" for number in range(20)])
        self.assertEqual(self.content("a"), b"", "all are known")
        self.append("p7", seq=1)
        self.append("n0", "n1", "n2", "n3", "n4", "n5", "n6", "n7")
        self.sweep()
        self.assertEqual(len(self.producers()), 3 + 2)

    def test_deleted_in_the_same_batch(self) -> None:
        """No producer is written for a stream that the same batch deletes."""
        self.step(create("a"))
        self.step(append("a", b"x", producer=("p", 0, 0)), delete("a"))
        self.assertEqual(self.producers(), [])
        self.sweep()

    def test_deleted_with_all_generations(self) -> None:
        self.step(create("a"))
        self.append(*[f"p{number}" for number in range(20)])
        self.step(delete("a"))
        self.sweep()
        self.assertEqual(set(self.engine.content), {codec.META_KEY, codec.NEXT_ID_KEY})

    def test_forgotten_is_freed_in_steps(self) -> None:
        self.step(create("a"))
        self.append(*[f"p{number}" for number in range(100)])
        self.tick = 0.01
        self.assertGreater(self.sweep(), 5)
        self.assertLessEqual(len(self.producers()), 2 * MOST)


class UnboundedTests(CommitterCase):
    """A bound of 0 means unlimited."""

    max_producers = 0

    def test_all(self) -> None:
        self.step(create("a"))
        self.step(*[append("a", b"x", producer=(f"p{number}", 0, 0)) for number in range(99)])
        self.step(*[append("a", b"x", producer=(f"p{number}", 0, 0)) for number in range(99)])
        self.assertEqual(len(self.content("a")), 99)
