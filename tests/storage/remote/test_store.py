"""Tests of `durable_streams_tw.storage.remote.store`."""

from __future__ import annotations

from functools import partial
from typing import Any

from twisted.internet.defer import Deferred
from zope.interface.verify import verifyObject

from durable_streams_tw.live.long_poll import LongPolls
from durable_streams_tw.live.registry import FollowerRegistry
from durable_streams_tw.protocol.errors import Problem, Refusal
from durable_streams_tw.storage import limits
from durable_streams_tw.storage.api import Chunk, IStreamStore
from durable_streams_tw.storage.limits import FRAME_SIZE, OUTAGE_GRACE, RECONNECT_LAST
from durable_streams_tw.storage.metrics import StoreMetrics
from durable_streams_tw.storage.queries import ListStreams
from durable_streams_tw.storage.remote.store import RemoteStore
from tests.storage.command_builders import append, create, delete
from tests.storage.remote.front_case import FrontCase
from tests.storage.remote.wire import Wire

BIG = b"y" * (3 * FRAME_SIZE)


def _record(asked: list[Any], read: Any, *arguments: Any) -> Any:
    asked.append(arguments)
    return read(*arguments)


class RemoteStoreTests(FrontCase):
    """A front process and a living owner."""

    def test_interface(self) -> None:
        verifyObject(IStreamStore, self.front.store)

    def test_shared(self) -> None:
        """The store has the bytes that its server shares."""
        self.assertEqual(self.front.store.shared, b"shared")
        self.successResultOf(self.front.store.when_connected())

    def test_one_frame_a_turn(self) -> None:
        """Requests of one reactor turn share a frame, and so do their replies."""
        self.create()
        wire = self.front.wire
        frames: list[tuple[str, int]] = []
        for end in (*wire.fronts, *wire.owners):
            deliver = end.other.protocol.dataReceived
            name = "request" if end in wire.fronts else "reply"

            def record(data: bytes, deliver: Any = deliver, name: str = name) -> None:
                self.assertEqual(int.from_bytes(data[:4], "big"), len(data) - 4)
                frames.append((name, len(data)))
                deliver(data)

            self.patch(end.other.protocol, "dataReceived", record)
        appended: list[Deferred[Any]] = [
            self.front.store.submit(append("a", b"x")) for _ in range(100)
        ]
        self.settle()
        self.assertEqual([self.successResultOf(done).state.tail for done in appended][-1], 100)
        self.assertEqual([name for name, _ in frames], ["request", "reply"])

    def test_read_after_acknowledgement(self) -> None:
        """A read of one front process sees writes that were acknowledged to another."""
        other = self.add_front()
        self.create()
        for number in range(5):
            done: Deferred[Any] = self.front.store.submit(append("a", b"x"))
            while not done.called:
                self.front.wire.turn()
            chunk = self.result(other.store.read("a", 0, 100))
            self.assertEqual(chunk.data, b"x" * (number + 1))

    def test_equal_reads(self) -> None:
        """Equal reads of one turn are one request; a later read is another, and sees more."""
        self.create("a", b"x")
        self.create("b")
        asked: list[tuple[Any, ...]] = []
        read = self.memory.read
        self.patch(self.memory, "read", partial(_record, asked, read))
        store = self.front.store
        equal: list[Deferred[Any]] = [store.read("a", 0, 100) for _ in range(3)]
        others: list[Deferred[Any]] = [
            store.read("a", 1, 100),
            store.read("a", 0, 99),
            store.read("b", 0, 100),
        ]
        self.settle()
        self.assertEqual([self.successResultOf(one).data for one in equal], [b"x"] * 3)
        self.assertEqual([self.successResultOf(one).data for one in others], [b"", b"x", b""])
        self.assertEqual(len(asked), 4)
        self.append("a", b"y")
        first: Deferred[Any] = store.read("a", 0, 100)
        self.front.wire.turn()
        self.append("a", b"z")
        self.assertEqual(self.result(store.read("a", 0, 100)).data, b"xyz")
        self.assertEqual(self.successResultOf(first).data, b"xy")

    def test_equal_reads_around_a_pin(self) -> None:
        """A read after a pin is not carried out before it, where it could miss a change."""
        state = self.create("a")
        store = self.front.store
        store.read("a", 0, 100)
        store.submit(append("a", b"x"))
        store.pin(state.id)
        self.assertEqual(self.result(store.read("a", 0, 100)).data, b"x")
        self.assertEqual(self.front.announced, [])

    def test_equal_reads_of_two_connections(self) -> None:
        """A read sent after a restart of the owner is not dropped with an equal earlier one."""
        self.create("a", b"x")
        store = self.front.store
        lost = store.read("a", 0, 100)
        self.kill()
        self.restart()
        self.assertRefused(Problem.STORAGE_UNAVAILABLE, self.successResultOf(lost))
        self.assertEqual(self.result(store.read("a", 0, 100)).data, b"x")

    def test_changes_of_pinned_streams_only(self) -> None:
        """A front process is sent the changes of streams that it has pinned, until it unpins."""
        a, b = self.create("a"), self.create("b")
        other = self.add_front()
        store = self.front.store
        store.pin(a.id)
        store.pin(a.id)
        other.store.pin(b.id)
        self.settle()
        for path in ("a", "b"):
            self.append(path)
        self.settle()
        self.assertEqual([change.state.path for change in self.front.announced], ["a"])
        self.assertEqual([change.data for change in other.announced], [b"x"])
        store.unpin(a.id)
        self.append("a")
        self.settle()
        self.assertEqual(len(self.front.announced), 2)
        store.unpin(a.id)
        self.settle()
        self.append("a")
        self.settle()
        self.assertEqual(len(self.front.announced), 2)

    def test_order_of_pin_and_read(self) -> None:
        """At whatever moment a commit happens, a pin and the read after it miss nothing."""
        store = self.front.store
        for delay in range(6):
            path = f"p{delay}"
            state = self.create(path)
            self.front.announced.clear()
            store.pin(state.id)
            read = store.read(path, 0, 100)
            for _ in range(delay):
                self.front.wire.turn()
            self.append(path)
            seen = self.result(read).end
            told = [change.state.tail for change in self.front.announced]
            self.assertEqual(max([seen, *told]), 1, delay)

    def test_large_body(self) -> None:
        """A large body is sent in parts between other messages; its stream keeps the order."""
        self.create("a")
        self.create("b")
        order: list[str] = []
        for path, data in (("a", BIG), ("a", b"2"), ("b", b"3"), ("a", b"4")):
            done: Deferred[Any] = self.front.store.submit(append(path, data))
            done.addCallback(partial(lambda name, _: order.append(name), data[:1].decode()))
        self.settle()
        self.assertEqual(order, ["3", "y", "2", "4"])
        self.assertEqual(self.result(self.front.store.read("a", 0, 2**30)).data, BIG + b"24")
        self.submit(append("a", b"5"))
        self.assertEqual(self.submit(delete("a")).state.tail, len(BIG) + 3)

    def test_frames_are_bounded(self) -> None:
        """Neither bodies nor reads make a frame larger than FRAME_SIZE and a message."""
        sizes: list[int] = []
        for end in (*self.front.wire.fronts, *self.front.wire.owners):
            write = end.write

            def record(data: bytes, write: Any = write) -> None:
                sizes.append(len(data) - 4)
                write(data)

            self.patch(end, "write", record)
        self.create("a", BIG)
        self.result(self.front.store.read("a", 0, 2**30))
        state = self.result(self.front.store.get_state("a"))
        self.result(self.front.store.read_range("a", state.id, 1, len(BIG)))
        for _ in range(20):
            self.front.store.submit(append("a", b"z" * 100_000))
        self.settle()
        self.assertGreater(len(sizes), 15)
        self.assertLess(max(sizes), FRAME_SIZE + 101_000)

    def test_bounded_queue(self) -> None:
        """Commands above MAX_QUEUE bytes or MAX_QUEUED_COMMANDS are refused, and are counted."""
        self.create()
        metrics = StoreMetrics()
        self.front.store.set_observer(metrics)
        self.patch(limits, "MAX_QUEUE", 150)
        bodies: list[Deferred[Any]] = [
            self.front.store.submit(append("a", b"x" * 100)) for _ in range(2)
        ]
        self.assertRefused(Problem.OVERLOADED, self.result(bodies[1]))
        self.assertEqual(self.successResultOf(bodies[0]).state.tail, 100)
        self.patch(limits, "MAX_QUEUED_COMMANDS", 3)
        many = [self.front.store.submit(append("a", b"x")) for _ in range(5)]
        self.settle()
        refused = [isinstance(self.successResultOf(done), Refusal) for done in many]
        self.assertEqual(refused, [False, False, False, True, True])
        self.assertEqual(metrics.refusals, {"overloaded": 3})

    def test_close(self) -> None:
        """Closing waits for the replies, then disconnects; later requests are refused."""
        self.create()
        store = self.front.store
        done = store.submit(append("a", b"x"))
        closed = store.close()
        self.assertNoResult(closed)
        self.assertEqual(self.result(done).state.tail, 1)
        self.successResultOf(closed)
        self.assertFalse(self.front.wire.fronts[0].connected)
        self.assertRefused(Problem.STOPPING, self.submit(append("a", b"x")))
        self.assertRefused(Problem.STOPPING, self.result(store.get_state("a")))
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_close_before_the_welcome(self) -> None:
        """A store that is closed while it connects does not stay connected."""
        wire = Wire(self.server, self.clock)
        store = RemoteStore(self.clock, wire)
        store.open()
        self.successResultOf(store.close())
        while wire.turn():
            pass
        self.assertEqual([end.connected for end in wire.fronts], [False])

    def test_record_listeners(self) -> None:
        """A front process cannot listen to records."""
        self.assertRaises(NotImplementedError, self.front.store.add_record_listener, print)


class OutageTests(FrontCase):
    """The owner dies and comes back."""

    def test_requests_while_away(self) -> None:
        """New requests are refused at once, with Retry-After, and counted."""
        state = self.create()
        self.kill()
        metrics = StoreMetrics()
        store = self.front.store
        store.set_observer(metrics)
        requests: list[Deferred[Any]] = [
            *(store.submit(append("a", b"x")), store.submit(create("b"))),
            *(store.get_state("a"), store.read("a", 0, 100), store.query(ListStreams())),
        ]
        for request in requests:
            refusal = self.assertRefused(Problem.STORAGE_UNAVAILABLE, self.successResultOf(request))
            self.assertEqual(refusal.headers, ((b"Retry-After", b"1"),))
        self.assertEqual(metrics.refusals, {"storage-unavailable": 2})
        self.assertIsNone(self.successResultOf(store.stats()))
        obstacle = self.successResultOf(store.check_writable())
        self.assertEqual(obstacle, "the process that owns the store is away")
        store.pin(state.id)
        store.unpin(state.id)
        self.restart()
        self.assertEqual(self.submit(append("a", b"x")).state.tail, 1)

    def test_requests_under_way(self) -> None:
        """A command without a reply has an unknown outcome; a read is refused."""
        self.create()
        done = self.front.store.submit(append("a", b"x"))
        read = self.front.store.read("a", 0, 100)
        # Carried out, but the reply is lost.
        self.clock.advance(0)
        self.front.wire.fronts[0].deliver()
        self.assertEqual(self.tail(), 1)
        self.kill()
        refusal = self.assertRefused(Problem.OUTCOME_UNKNOWN, self.successResultOf(done))
        self.assertEqual(refusal.headers, ((b"Retry-After", b"1"),))
        self.assertRefused(Problem.STORAGE_UNAVAILABLE, self.successResultOf(read))

    def test_continued_reads_wait(self) -> None:
        """Reads of live readers and transfers, under way and new ones, wait for the owner."""
        state = self.create("a", b"abc")
        store = self.front.store
        reads: list[Deferred[Any]] = [store.read("a", 1, 100, state.id)]
        self.kill()
        reads += [store.read("a", 2, 100, state.id), store.read_range("a", state.id, 0, 2)]
        for read in reads:
            self.assertNoResult(read)
        self.clock.advance(OUTAGE_GRACE / 2)
        self.restart()
        self.assertEqual([self.successResultOf(read).data for read in reads[:2]], [b"bc", b"c"])
        self.assertEqual(self.successResultOf(reads[2]), b"ab")

    def test_continued_reads_wait_for_a_while(self) -> None:
        """Continued reads are refused OUTAGE_GRACE seconds after the start of each outage."""
        state = self.create("a", b"abc")
        store = self.front.store
        self.kill()
        read = store.read("a", 1, 100, state.id)
        self.clock.advance(OUTAGE_GRACE)
        self.assertRefused(Problem.STORAGE_UNAVAILABLE, self.successResultOf(read))
        late = store.read("a", 1, 100, state.id)
        self.assertRefused(Problem.STORAGE_UNAVAILABLE, self.successResultOf(late))
        self.restart()
        self.kill()
        self.assertNoResult(store.read("a", 1, 100, state.id))

    def test_attempts(self) -> None:
        """The store connects again with growing delays, at last every RECONNECT_LAST seconds."""
        self.kill()
        wire = self.front.wire
        before = wire.attempts
        times: list[float] = []
        for _ in range(100):
            self.clock.advance(0.1)
            if wire.attempts > before:
                before = wire.attempts
                times.append(self.clock.seconds())
        self.assertGreater(len(times), 15)
        self.assertLess(len(times), 25)
        self.assertLess(times[1] - times[0], RECONNECT_LAST / 2)
        self.assertLess(abs(times[-1] - times[-2] - RECONNECT_LAST), 0.15)
        self.restart()
        self.assertEqual(self.create("b").path, "b")

    def test_told_that_the_owner_is_there(self) -> None:
        """With `connect_now` the store connects without waiting for its next attempt."""
        self.kill()
        self.clock.pump([0.1] * 50)
        self.server = self.front.wire.server = self.serve()
        self.front.store.connect_now()
        self.clock.advance(0)
        self.settle()
        self.assertEqual(self.create("b").path, "b")
        self.front.store.connect_now()
        self.assertEqual(self.create("c").path, "c")

    def test_pins_come_before_the_look(self) -> None:
        """After an outage streams are pinned before `on_reconnect` reads, so nothing is missed."""
        state = self.create()
        store = self.front.store
        store.pin(state.id)
        self.settle()
        looks: list[Deferred[Any]] = []
        store.on_reconnect = lambda: looks.append(store.get_state("a"))
        for delay in range(6):
            self.kill()
            self.server = self.serve()
            self.front.wire.server = self.server
            self.front.announced.clear()
            self.clock.advance(RECONNECT_LAST)
            for _ in range(delay):
                self.front.wire.turn()
            tail = self.append().state.tail
            self.settle()
            seen = self.successResultOf(looks.pop()).tail
            told = [change.state.tail for change in self.front.announced]
            self.assertEqual(max([seen, *told]), tail, delay)

    def test_pins_end_with_the_connection(self) -> None:
        """Streams that a dead front process had pinned expire."""
        state = self.submit(create("a", ttl=5)).state
        self.front.store.pin(state.id)
        self.settle()
        self.clock.advance(10)
        self.assertEqual(self.result(self.front.store.get_state("a")).id, state.id)
        self.front.wire.fronts[0].close()
        self.clock.advance(5)
        self.assertIsInstance(self.successResultOf(self.memory.get_state("a")), Refusal)

    def test_commands_of_a_dead_front(self) -> None:
        """Commands that the owner has received are carried out without their front process."""
        self.create()
        self.front.store.submit(append("a", b"x"))
        self.clock.advance(0)
        front = self.front.wire.fronts[0]
        front.deliver()
        front.close()
        self.settle()
        self.assertEqual(self.tail(), 1)

    def test_close_while_away(self) -> None:
        """Closing ends reads that wait, and attempts to connect."""
        state = self.create()
        self.kill()
        read = self.front.store.read("a", 0, 100, state.id)
        self.successResultOf(self.front.store.close())
        self.assertIsInstance(self.successResultOf(read), Refusal)
        self.assertEqual(self.clock.getDelayedCalls(), [])


class LiveReadTests(FrontCase):
    """Live readers of a front process over an outage."""

    def setUp(self) -> None:
        super().setUp()
        store = self.front.store
        registry = FollowerRegistry(store, self.clock)
        store.on_reconnect = registry.look_again
        self.polls = LongPolls(store, registry, self.clock, 300.0)

    def wait(self, path: str) -> Deferred[Any]:
        """Begin a long-poll at the tail of a stream."""
        chunk = self.result(self.front.store.read(path, -1, 100))
        waiting = self.polls.wait(chunk, 100)
        self.settle()
        self.assertNoResult(waiting)
        return waiting

    def test_long_polls(self) -> None:
        """Long-polls survive an outage and see what was appended or deleted meanwhile."""
        for path in "abcd":
            self.create(path)
        waiting = {path: self.wait(path) for path in "abcd"}
        self.kill()
        self.append("a", b"news")
        self.successResultOf(self.memory.submit(delete("b")))
        self.successResultOf(self.memory.submit(delete("c")))
        self.successResultOf(self.memory.submit(create("c", b"another")))
        self.settle()
        for poll in waiting.values():
            self.assertNoResult(poll)
        self.restart()
        chunk = self.successResultOf(waiting["a"])
        assert isinstance(chunk, Chunk), chunk
        self.assertEqual(chunk.data, b"news")
        self.assertRefused(Problem.STREAM_NOT_FOUND, self.successResultOf(waiting["b"]))
        self.assertIsInstance(self.successResultOf(waiting["c"]), Refusal)
        self.assertNoResult(waiting["d"])
        self.append("d", b"later")
        self.assertEqual(self.result(waiting["d"]).data, b"later")

    def test_second_outage(self) -> None:
        """An owner that dies again before it has replied is asked again."""
        self.create("a")
        waiting = self.wait("a")
        self.kill()
        self.append("a", b"news")
        self.server = self.serve()
        self.front.wire.server = self.server
        self.clock.advance(RECONNECT_LAST)
        self.front.wire.turn()
        self.kill()
        self.restart()
        self.assertEqual(self.successResultOf(waiting).data, b"news")
