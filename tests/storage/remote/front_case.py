"""Case with an owner that keeps a memory store, and front processes in memory."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from durable_streams_tw.protocol.errors import Problem, Refusal
from durable_streams_tw.protocol.streams.state import StreamState
from durable_streams_tw.storage.api import Change, Command
from durable_streams_tw.storage.limits import RECONNECT_LAST
from durable_streams_tw.storage.memory.store import MemoryStore
from durable_streams_tw.storage.remote.server import StoreServer
from durable_streams_tw.storage.remote.store import RemoteStore
from tests.storage.command_builders import append, create
from tests.storage.remote.wire import Wire


class Front:
    """Front process: its store, its connection, and the changes that it was sent."""

    def __init__(self, case: FrontCase) -> None:
        self.wire = Wire(case.server, case.clock)
        self.store = RemoteStore(case.clock, self.wire, random=lambda: 1.0)
        self.announced: list[Change] = []
        self.store.add_listener(self.announced.extend)
        self.store.open()


class FrontCase(SynchronousTestCase):
    """One owner, and one front process, `front`, that is connected to it."""

    backlog = 2**22

    def setUp(self) -> None:
        self.clock = Clock()
        self.clock.advance(1_800_000_000)
        self.memory = MemoryStore(lambda: round(self.clock.seconds() * 1000))
        self.fronts: list[Front] = []
        self.server: StoreServer | None = self.serve()
        self.front = self.add_front()

    def serve(self) -> StoreServer:
        """Return a new server of the memory store."""
        return StoreServer(self.memory, self.clock, lambda: b"shared", backlog=self.backlog)

    def add_front(self) -> Front:
        """Start one more front process."""
        front = Front(self)
        self.fronts.append(front)
        self.settle()
        return front

    def settle(self) -> None:
        """Run all processes until nothing is on its way."""
        moved = True
        while moved:
            turns = [front.wire.turn() for front in self.fronts]
            moved = any(turns)

    def kill(self) -> None:
        """Kill the owner."""
        self.server = None
        for front in self.fronts:
            front.wire.kill_server()

    def restart(self) -> None:
        """Start the owner again, and let the front processes connect."""
        self.server = self.serve()
        for front in self.fronts:
            front.wire.server = self.server
        self.clock.advance(RECONNECT_LAST)
        self.settle()

    def submit(self, command: Command, front: Front | None = None) -> Any:
        """Submit a command, and return its outcome."""
        return self.result((front or self.front).store.submit(command))

    def create(self, path: str = "a", data: bytes = b"") -> StreamState:
        """Create a stream."""
        state: StreamState = self.submit(create(path, data)).state
        return state

    def append(self, path: str = "a", data: bytes = b"x") -> Any:
        """Append at the owner, without a front process."""
        return self.successResultOf(self.memory.submit(append(path, data)))

    def tail(self, path: str = "a") -> int:
        """Return the tail of a stream as the owner knows it."""
        state: Any = self.successResultOf(self.memory.get_state(path))
        tail: int = state.tail
        return tail

    def result(self, deferred: Deferred[Any]) -> Any:
        """Run all processes, and return the result of a Deferred."""
        self.settle()
        return self.successResultOf(deferred)

    def assertRefused(self, problem: Problem, outcome: object) -> Refusal:
        """Assert that an outcome is a refusal with a problem; return it."""
        assert isinstance(outcome, Refusal), outcome
        self.assertEqual(outcome.problem, problem)
        return outcome
