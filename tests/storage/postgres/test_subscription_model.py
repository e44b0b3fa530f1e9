"""Random requests for subscriptions, dealt to nodes at random, beside the memory store.

Each node has its own index of subscriptions: whatever they are asked, in whatever order, they
decide like one store, an idle subscription has no cursors, and a waking one has some.
"""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from durable_streams_tw.protocol.subscriptions.state import Subscription
from durable_streams_tw.storage.engine.tables import CURSORS, SUBSCRIPTIONS
from durable_streams_tw.storage.memory.store import MemoryStore
from durable_streams_tw.storage.postgres.connection import connect
from durable_streams_tw.storage.postgres.reader import Connection, scan
from tests.storage.durable.test_subscription_model import STEPS, command_of, comparable
from tests.storage.postgres.test_nodes import NodesCase


def states(connection: Connection) -> dict[str, Subscription]:
    """Return the stored subscriptions by id."""
    return {state.id: state for _, state in scan(connection, SUBSCRIPTIONS, b"", None)}


class NodeModelTests(NodesCase, SynchronousTestCase):
    """Two nodes and a model of one process."""

    def setUp(self) -> None:
        """Each example makes its stores."""

    @settings(max_examples=25)
    @given(st.lists(STEPS, max_size=40))
    def test_nodes_agree_with_one_store(self, steps: list[tuple[Any, ...]]) -> None:
        self.begin()
        memory = MemoryStore(lambda: self.now)
        with connect(self.settings) as connection:
            for number, step in enumerate(steps):
                if step[0] == "sleep":
                    self.now += step[1]
                    self.sweep(self.store)
                    memory.sweep()
                    continue
                theirs = {state.id: state for _, state in memory.range(SUBSCRIPTIONS, b"", None)}
                ours = command_of(step, states(connection))
                others = command_of(step, theirs)
                assert ours is not None and others is not None
                outcome = self.submit(ours)
                expected = self.successResultOf(memory.submit(others))
                self.assertEqual(comparable(outcome), comparable(expected), (number, step))
                self.check(connection, memory, (number, step))
        self.finish()

    def check(self, connection: Connection, memory: MemoryStore, step: object) -> None:
        """Compare the subscriptions, and check that cursors tell whether work is pending."""
        found = states(connection)
        self.assertEqual(
            {state.id: (state.generation, state.idle, state.leased) for state in found.values()},
            {
                state.id: (state.generation, state.idle, state.leased)
                for _, state in memory.range(SUBSCRIPTIONS, b"", None)
            },
            step,
        )
        pending = {
            int.from_bytes(key[:8], "big") for key, _ in scan(connection, CURSORS, b"", None)
        }
        for state in found.values():
            if state.idle:
                self.assertNotIn(state.number, pending, step)
            elif not state.leased:
                self.assertIn(state.number, pending, step)
