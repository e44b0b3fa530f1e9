"""Tests of `durable_streams_tw.storage.remote.server` and of the frames."""

from __future__ import annotations

from typing import Any

import msgspec
from twisted.internet.defer import fail
from twisted.logger import ILogObserver, globalLogPublisher
from zope.interface import provider

from durable_streams_tw import storage
from durable_streams_tw.protocol.errors import Problem
from durable_streams_tw.storage.limits import FRAME_SIZE, MAX_FRAME, MAX_SENT_CHANGE, RECONNECT_LAST
from durable_streams_tw.storage.remote import frames, messages
from durable_streams_tw.storage.remote.messages import (
    ANSWERS,
    Fragment,
    GetState,
    Hello,
    Pin,
    Question,
    Reply,
    Unpin,
    Welcome,
)
from tests.storage.command_builders import append
from tests.storage.remote.front_case import FrontCase
from tests.storage.remote.wire import BUFFER, End, Wire


def frame(*sent: object) -> bytes:
    """Return a frame of messages."""
    data = messages.encode(sent)
    return len(data).to_bytes(4, "big") + data


class ServerCase(FrontCase):
    """`logged` are the lines of the log at level warn and above."""

    def setUp(self) -> None:
        self.logged: list[str] = []

        @provider(ILogObserver)
        def observe(event: Any) -> None:
            if event["log_level"].name in ("warn", "error", "critical"):
                self.logged.append(event["log_format"].format(**event))

        globalLogPublisher.addObserver(observe)
        self.addCleanup(globalLogPublisher.removeObserver, observe)
        super().setUp()

    def connect(self, *sent: object) -> End:
        """Connect without a remote store, and send messages."""
        wire = Wire(self.server, self.clock)
        received = bytearray()

        class Peer:
            """Protocol that only receives."""

            def makeConnection(self, transport: End) -> None:
                """Do nothing."""

            def dataReceived(self, data: bytes) -> None:
                received.extend(data)

            def connectionLost(self, reason: Any) -> None:
                """Do nothing."""

        class PeerFactory:
            """Factory of `Peer` protocols."""

            def buildProtocol(self, address: None) -> Peer:
                return Peer()

        wire.connect(PeerFactory())
        end = wire.fronts[0]
        self.wire, self.received = wire, received
        if sent:
            end.write(frame(*sent))
        self.turn()
        return end

    def turn(self) -> None:
        """Run the processes of `connect`."""
        while self.wire.turn():
            pass

    def hello(self) -> End:
        """Connect as a remote store of this version does."""
        return self.connect(Hello(messages.VERSION))


class VersionTests(ServerCase):
    """Processes of different versions do not work together."""

    def test_refused(self) -> None:
        """A process of another version gets an error message, and the connection is closed."""
        end = self.connect(Hello("0.0.1/0"))
        self.assertFalse(end.connected)
        (rejected,) = messages.decode_responses(bytes(self.received[4:]))
        self.assertEqual(
            rejected,
            messages.Rejected(
                f"the process that owns the store runs version {messages.VERSION}, "
                "this one 0.0.1/0: restart the whole server"
            ),
        )

    def test_logged_once(self) -> None:
        """The remote store logs the sentence once, and connects again."""
        self.kill()
        self.logged.clear()
        self.front.wire.server = self.serve()
        for _ in range(5):
            self.clock.advance(RECONNECT_LAST)
            newer = self.patch(messages, "VERSION", "9.9/9")
            self.settle()
            newer.restore()
        self.assertEqual(len(self.front.wire.fronts), 6)
        (line,) = self.logged
        self.assertIn("runs version 9.9/9", line)
        self.assertRefused(Problem.STORAGE_UNAVAILABLE, self.submit(append("a", b"x")))


class MalformedFrameTests(ServerCase):
    """Each malformed frame closes its connection, and no other, and is logged."""

    def test_before_hello(self) -> None:
        """Nothing is carried out before `Hello`."""
        end = self.connect(GetState(1, "a"))
        self.turn()
        self.assertFalse(end.connected)
        self.assertIn("the first message is not Hello", self.logged[0])

    def test_frames(self) -> None:
        """Frames that are no messages, or messages that are out of place."""
        rows: list[tuple[bytes, str]] = [
            (b"GET / HTTP/1.1\r\n\r\n", "bytes are more than a frame has"),
            ((MAX_FRAME + 1).to_bytes(4, "big"), "bytes are more than a frame has"),
            (b"\x00\x00\x00\x00", "malformed"),
            (b"\x00\x00\x00\x01\xc1", "malformed"),
            (b"\x00\x00\x00\x02\x91\x90", "malformed"),
            (frame(1), "malformed"),
            (frame(["Nothing", 1]), "malformed"),
            (frame(["GetState", "1", "a"]), "malformed"),
            (frame(["Execute", 1, ["Append", "a"]]), "malformed"),
            (frame(["Execute", 1, ["Sweep", "a"]]), "malformed"),
            (frame(Welcome(b"", None)), "malformed"),
            (frame(Reply(1, None)), "malformed"),
            (frame(Hello(messages.VERSION)), "Hello is out of place"),
            (frame(Unpin(7)), "stream 7 is not pinned"),
            (frame(Pin(7), Fragment(b"x", True)), "Fragment is out of place"),
            (frame(Fragment(b"x", True), Pin(7)), "a fragment is alone in its frame"),
            (frame(Fragment(b"\xc1", True)), "malformed"),
            (frame(Fragment(frame(Fragment(b"\x90", True))[4:], True)), "out of place"),
        ]
        for data, why in rows:
            end = self.hello()
            for start in range(0, len(data), BUFFER):
                end.write(data[start : start + BUFFER])
            self.turn()
            self.assertFalse(end.connected, data)
            self.assertEqual(len(self.logged), 1, (data, self.logged))
            self.assertIn("Closed the connection to a front process: ", self.logged[0])
            self.assertIn(why, self.logged[0], data)
            self.logged.clear()
        self.create()
        self.assertEqual(self.tail(), 0)
        self.assertEqual(len(self.server.connections if self.server else ()), 1)

    def test_too_many_fragments(self) -> None:
        """A message in parts is bounded."""
        self.patch(frames, "MAX_MESSAGE", 1000)
        end = self.hello()
        for _ in range(11):
            end.write(frame(Fragment(b"x" * 100, False)))
        self.turn()
        self.assertFalse(end.connected)
        self.assertIn("more than 1000 bytes of fragments", self.logged[0])

    def test_byte_by_byte(self) -> None:
        """Frames arrive in whatever pieces."""
        self.create()
        end = self.hello()
        state = self.successResultOf(self.memory.get_state("a"))
        self.received.clear()
        data = frame(GetState(5, "a")) + frame(GetState(6, "a"), GetState(7, "a")) + frame()
        for number in range(len(data)):
            end.write(data[number : number + 1])
            self.turn()
        self.assertTrue(end.connected)
        replies: list[Any] = []
        rest = bytes(self.received)
        while rest:
            size = int.from_bytes(rest[:4], "big")
            replies += messages.decode_responses(rest[4 : 4 + size])
            rest = rest[4 + size :]
        self.assertEqual([reply.number for reply in replies], [5, 6, 7])
        self.assertEqual({reply.result for reply in replies}, {state})

    def test_of_the_server(self) -> None:
        """A remote store closes the connection too, and connects again."""
        self.front.wire.owners[0].write(frame(Reply(99, None)))
        self.settle()
        self.assertIn("Closed the connection to the process that owns the store", self.logged[0])
        self.assertIn("there is no request 99", self.logged[0])
        self.clock.advance(RECONNECT_LAST)
        self.settle()
        self.assertEqual(self.create().tail, 0)


class FrozenFrontTests(ServerCase):
    """A front process that does not read."""

    backlog = 2**20

    def test_backlog(self) -> None:
        """A front process that leaves more than `backlog` bytes unread is cut off, no other is."""
        other = self.add_front()
        state = self.create()
        for front in (self.front, other):
            front.store.pin(state.id)
        self.settle()
        wire = self.front.wire
        wire.owners[0].reads = False
        data = b"x" * 100_000
        appends = 0
        while wire.owners[0].connected:
            self.append("a", data)
            self.settle()
            appends += 1
            self.assertLessEqual(len(wire.owners[0].buffer), BUFFER + FRAME_SIZE)
            self.assertLess(appends * len(data), self.backlog + 2 * FRAME_SIZE + BUFFER)
        self.assertGreater(appends * len(data), self.backlog)
        self.assertIn("bytes unread", self.logged[0])
        self.assertEqual(sum(len(change.data) for change in other.announced), appends * len(data))
        self.clock.advance(RECONNECT_LAST)
        self.settle()
        self.front.announced.clear()
        self.append()
        self.settle()
        self.assertEqual(len(self.front.announced), 1)

    def test_resumed(self) -> None:
        """A front process that reads again receives all waiting changes, in order."""
        state = self.create()
        self.front.store.pin(state.id)
        self.settle()
        end = self.front.wire.owners[0]
        end.reads = False
        for number in range(200):
            self.append("a", b"%03d" % number + b"x" * 1_000)
            self.settle()
        end.reads = True
        self.settle()
        told = [change.data[:3] for change in self.front.announced]
        self.assertEqual(told, [b"%03d" % number for number in range(200)])


class StoreServerTests(ServerCase):
    """The server of a store."""

    def test_large_change(self) -> None:
        """The bytes of an append above MAX_SENT_CHANGE are left out."""
        state = self.create()
        self.front.store.pin(state.id)
        self.settle()
        for size in (MAX_SENT_CHANGE, MAX_SENT_CHANGE + 1):
            self.append("a", b"x" * size)
        self.settle()
        self.assertEqual(
            [len(change.data) for change in self.front.announced], [MAX_SENT_CHANGE, 0]
        )
        self.assertEqual(self.front.announced[1].state.tail, 2 * MAX_SENT_CHANGE + 1)

    def test_failing_store(self) -> None:
        """An error of the store is logged, and its request gets an internal error."""
        self.patch(self.memory, "get_state", lambda path: fail(ZeroDivisionError()))
        outcome = self.result(self.front.store.get_state("a"))
        self.assertRefused(Problem.INTERNAL, outcome)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    def test_stop(self) -> None:
        """Stopping closes all connections."""
        self.add_front()
        assert self.server is not None
        self.server.stop()
        self.settle()
        self.assertEqual(self.server.connections, set())

    def test_questions(self) -> None:
        """Each question to a store in the source has a message and a decoder of its answer."""
        known = set(Question.__args__)
        self.assertEqual(known, set(ANSWERS))
        found = set()
        waiting: list[type] = list(msgspec.Struct.__subclasses__())
        while waiting:
            struct = waiting.pop()
            waiting += struct.__subclasses__()
            if hasattr(struct, "answer") and struct.__module__.startswith(storage.__name__):
                found.add(struct)
        self.assertEqual(found, known)
