"""Nodes that share a store call each webhook once, and take over from nodes that stop."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import Clock

from durable_streams_tw.protocol.errors import Problem, Refusal
from durable_streams_tw.protocol.subscriptions.commands import Unsubscribe
from durable_streams_tw.protocol.subscriptions.state import Subscription, next_action
from durable_streams_tw.storage.api import (
    Command,
    IStreamStore,
    Outcome,
    RecordChange,
    RecordListener,
)
from durable_streams_tw.storage.commands.subscription_queries import changed_subscription
from durable_streams_tw.storage.limits import DUTY_HELD
from durable_streams_tw.storage.memory.store import MemoryStore
from durable_streams_tw.subscriptions.scheduler import Scheduler
from tests.subscriptions.webhook_case import LEASE, WebhookCase

DONE = b'{"done": true}'


class Board:
    """Holders of the duties of one store, as its database keeps them."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.states: dict[str, Subscription] = {}
        self.held: dict[str, tuple[str, float]] = {}

    def changed(self, node: str, name: str, state: Subscription | None) -> None:
        """Store the subscription and its holder, in the commit that changes it."""
        self.states.pop(name, None)
        self.held.pop(name, None)
        if state is None:
            return
        self.states[name] = state
        owed = next_action(state)
        if owed is not None:
            self.held[name] = node, max(owed[1] / 1000, self.clock.seconds()) + DUTY_HELD


class Node:
    """Store of one node: the commits of other nodes are not announced here."""

    def __init__(self, name: str, store: MemoryStore, board: Board) -> None:
        self.name, self.store, self.board = name, store, board
        self.duties = self
        self.away = False
        self.listeners: list[RecordListener] = []
        self.committing = False
        store.add_record_listener(self._announce)

    def _announce(self, notes: Sequence[RecordChange]) -> None:
        if not self.committing:
            return
        for note in notes:
            changed = changed_subscription(note)
            if changed is not None:
                self.board.changed(self.name, *changed)
        for listener in self.listeners:
            listener(notes)

    def add_record_listener(self, listener: RecordListener) -> None:
        self.listeners.append(listener)

    def submit(self, command: Command) -> Deferred[Outcome]:
        self.committing = True
        try:
            return self.store.submit(command)
        finally:
            self.committing = False

    def query(self, question: Any) -> Deferred[Any]:
        return self.store.query(question)

    # -- duties -------------------------------------------------------------------------------

    def take(self) -> Deferred[list[Subscription] | Refusal]:
        now = self.board.clock.seconds()
        late = [name for name, (_, until) in self.board.held.items() if until < now]
        return self._mine(late)

    def hold(self, ids: Sequence[str]) -> Deferred[list[Subscription] | Refusal]:
        held = self.board.held
        return self._mine([name for name in ids if name in held and held[name][0] == self.name])

    def _mine(self, names: list[str]) -> Deferred[list[Subscription] | Refusal]:
        if self.away:
            return succeed(Refusal(Problem.STORAGE_UNAVAILABLE, "away"))
        until = self.board.clock.seconds() + DUTY_HELD
        self.board.held.update(dict.fromkeys(names, (self.name, until)))
        return succeed([self.board.states[name] for name in names])

    def release(self) -> Deferred[None]:
        held = self.board.held
        held.update({name: (node, 0.0) for name, (node, _) in held.items() if node == self.name})
        return succeed(None)


class DutyTests(WebhookCase):
    """Two nodes over one store; `calls` are those of both."""

    def make_store(self) -> IStreamStore:
        memory = MemoryStore(self.now)
        self.board = Board(self.clock)
        self.one, self.two = (Node(name, memory, self.board) for name in ("one", "two"))
        first: Any = self.one
        store: IStreamStore = first
        return store

    def begin(self) -> None:
        super().begin()
        second: Any = self.two
        self.other = Scheduler(second, self.deliveries.deliver, self.clock, self.now)
        self.other.start()

    def at(self, node: Node) -> None:
        """Let the following requests reach a node."""
        store: Any = node
        self.store = store

    def test_only_the_node_that_commits_the_wake_calls(self) -> None:
        self.hook()
        self.at(self.two)
        self.write()
        self.call().answer(body=DONE)
        self.turn(60)
        self.assertQuiet()
        self.assertEqual(self.board.held, {})

    def test_long_call_is_renewed(self) -> None:
        self.hook()
        self.write()
        call = self.call()
        for _ in range(25):
            self.turn(1)
        self.assertQuiet()
        call.answer(body=DONE)
        self.assertQuiet()

    def test_next_wake_belongs_to_the_node_of_the_callback(self) -> None:
        self.hook()
        self.write()
        call = self.call()
        call.answer(202)
        self.write()
        self.at(self.two)
        self.call_back(call, ("events/a", 3))
        again = self.call()
        self.assertEqual(self.board.held["s"][0], "two")
        again.answer(body=DONE)
        self.turn(LEASE / 1000 + 60)
        self.assertQuiet()

    def test_lease_renewed_at_another_node_ends_there(self) -> None:
        """The first node's timer finds that the lease is no longer its duty."""
        self.hook()
        self.write()
        call = self.call()
        call.answer(202)
        self.turn(LEASE / 1000 - 1)
        self.at(self.two)
        self.call_back(call, done=False)
        self.turn(2)
        self.assertQuiet()
        self.assertEqual(self.state().generation, 1)
        self.turn(LEASE / 1000)
        self.assertEqual(self.call().body["generation"], 2)
        self.assertEqual(self.board.held["s"][0], "two")

    def test_callback_at_another_node_during_the_call(self) -> None:
        """The response of a call whose lease another node holds causes no second call."""
        self.hook()
        self.write()
        call = self.call()
        self.at(self.two)
        self.call_back(call, done=False)
        call.answer(500)
        self.turn(5)
        self.assertQuiet()

    def test_duty_of_a_dead_node_is_taken(self) -> None:
        self.hook()
        self.write()
        dead = self.call()
        # A killed node asks for nothing, and no response reaches it.
        for question in ("hold", "take"):
            self.patch(self.one, question, lambda *_: succeed([]))
        for _ in range(30):
            self.turn(1)
        again = self.call()
        self.assertEqual(again.body["wake_id"], dead.body["wake_id"])
        self.assertEqual(self.board.held["s"][0], "two")
        again.answer(body=DONE)
        self.turn(60)
        self.assertQuiet()

    def test_duty_of_a_stopped_node_is_taken_at_once(self) -> None:
        self.hook()
        self.write()
        self.call()
        self.successResultOf(self.wakes.stop())
        self.turn(2)
        self.call().answer(body=DONE)
        self.assertEqual(self.board.held, {})

    def test_deleted_at_another_node(self) -> None:
        self.hook()
        self.write()
        self.call().answer(500)
        self.at(self.two)
        self.submit(Unsubscribe("s"))
        self.turn(60)
        self.assertQuiet()

    def test_store_that_refuses_is_asked_again(self) -> None:
        self.hook()
        self.write()
        self.call().answer(500)
        self.one.away = True
        self.turn(15)
        self.assertQuiet()
        self.one.away = False
        self.turn(2)
        self.call().answer(body=DONE)
        self.assertQuiet()
