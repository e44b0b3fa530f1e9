"""Suite: notifications of listeners."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from twisted.internet.defer import Deferred

from durable_streams_tw.protocol.streams.commands import Delete
from durable_streams_tw.protocol.streams.outcomes import Appended, Created
from durable_streams_tw.protocol.streams.state import Lifetime
from durable_streams_tw.storage.api import Change, Outcome
from tests.storage.store_case import JSON, StoreCase, post, put


class NotificationSuite(StoreCase):
    """Listeners are called once per commit, in order, after it is visible."""

    def changes(self) -> list[Change]:
        """Return all changes since the last call."""
        told, self.announced[:] = list(self.announced), []
        self.assertTrue(all(told), "a commit that changed nothing is none")
        return [change for changes in told for change in changes]

    def test_lifecycle(self) -> None:
        """Creation, appends, close and end are announced with state and bytes."""
        created = self.created(put(raw=b"one"))
        self.assertEqual(self.changes(), [Change(created, 0, b"one")])
        appended = self.appended(post(b"two"))
        self.assertEqual(self.changes(), [Change(appended, 3, b"two")])
        closed = self.appended(post(closed=True))
        self.assertEqual(self.changes(), [Change(closed, 6, b"")])
        self.deleted()
        (end,) = self.changes()
        self.assertEqual(
            (end.state.id, end.state.path, end.data, end.gone), (closed.id, "a", b"", True)
        )

    def test_json(self) -> None:
        """Bytes are announced as stored: whole messages, each with a comma."""
        created = self.created(put("a", JSON, b"[1, 2]"))
        appended = self.appended(post(b' {"a":1} ', content_type=JSON))
        self.assertEqual(
            self.changes(), [Change(created, 0, b"1,2,"), Change(appended, 4, b'{"a":1},')]
        )

    def test_large_appends(self) -> None:
        """An append is one change, however many records it fills."""
        self.created(put())
        self.changes()
        appended = self.appended(post(b"x" * 100_000))
        self.assertEqual(self.changes(), [Change(appended, 0, b"x" * 100_000)])

    def test_one_call_per_commit(self) -> None:
        """Concurrent commands may share a commit, sequential ones do not."""
        self.created(put())
        self.appended(post(b"1"))
        self.appended(post(b"2"))
        self.assertEqual([len(changes) for changes in self.announced], [1, 1, 1])
        self.changes()
        self.submit_all(*[post(b"x") for _ in range(10)])
        self.assertLessEqual(len(self.announced), 10)
        changes = self.changes()
        self.assertEqual([change.start for change in changes], list(range(2, 12)))
        self.assertEqual([change.state.tail for change in changes], list(range(3, 13)))

    def test_many_streams_at_once(self) -> None:
        """Changes are in the order of the commands."""
        outcomes = self.submit_all(
            *(put("a", raw=b"1"), put("b", raw=b"22"), post(b"3", "a"), Delete("b")),
            *(put("b"), post(b"4", "b"), post(path="a", closed=True)),
        )
        told = [
            (change.state.path, change.start, change.data, change.gone) for change in self.changes()
        ]
        self.assertEqual(
            told,
            [
                *(("a", 0, b"1", False), ("b", 0, b"22", False), ("a", 1, b"3", False)),
                *(("b", 2, b"", True), ("b", 0, b"", False), ("b", 0, b"4", False)),
                ("a", 2, b"", False),
            ],
        )
        assert isinstance(outcomes[4], Created)
        self.assertEqual(self.state_of("b").id, outcomes[4].state.id)

    def test_nothing_changed(self) -> None:
        """Refused and duplicate commands are not announced."""
        self.created(put("a", JSON, b"1"))
        self.appended(post(b"2", content_type=JSON, producer=("p", 0, 0), closed=True))
        self.changes()
        self.submit_all(
            post(b"3", content_type=JSON),
            post(content_type=JSON, closed=True),
            post(b"2", content_type=JSON, producer=("p", 0, 0)),
            put("a", JSON, closed=True),
            put("a"),
            put("b", JSON, b"{"),
            Delete("b"),
            post(b"x", "b"),
        )
        self.read()
        self.state_of()
        self.assertEqual(self.changes(), [])

    def test_expired_stream_is_announced_first(self) -> None:
        """The end of an expired stream is announced before the stream that replaces it."""
        first = self.created(put(lifetime=Lifetime(ttl=1)))
        self.changes()
        self.sleep(1)
        second = self.created(put(raw=b"x"))
        told = [(change.state.id, change.data, change.gone) for change in self.changes()]
        self.assertEqual(told, [(first.id, b"", True), (second.id, b"x", False)])

    def test_all_listeners(self) -> None:
        """All listeners get the same changes."""
        others: list[list[Sequence[Change]]] = [[], []]
        for other in others:
            self.store.add_listener(other.append)
        self.created(put())
        self.appended(post(b"x"))
        for other in others:
            self.assertEqual(other, self.announced)

    def test_visible_before_announced(self) -> None:
        """A listener that reads sees the announced change."""
        looks: list[tuple[Change, Deferred[Any], Deferred[Any]]] = []

        def look(changes: Sequence[Change]) -> None:
            for change in changes:
                path = change.state.path
                looks.append(
                    (change, self.store.get_state(path), self.store.read(path, change.start, 2**20))
                )

        self.store.add_listener(look)
        self.created(put(raw=b"one"))
        self.settle(self.store)
        for command in (post(b"two"), post(b"three" * 10_000), post(closed=True)):
            self.appended(command)
            self.settle(self.store)
        self.assertEqual(len(looks), 4)
        for change, state, chunk in looks:
            self.assertEqual(self.result(state), change.state)
            read = self.result(chunk)
            self.assertEqual((read.state, read.data), (change.state, change.data))

    def test_announced_with_the_outcome(self) -> None:
        """Listeners are called in the turn in which the outcome is reported."""
        self.created(put())
        for number in range(5):
            self.appended(post(b"x"))
            self.assertEqual(self.changes()[-1].start, number)

    def test_a_listener_that_fails(self) -> None:
        """An exception of a listener affects neither the outcome nor other listeners."""

        def fail(changes: Sequence[Change]) -> None:
            raise ZeroDivisionError

        later: list[Sequence[Change]] = []
        self.store.add_listener(fail)
        self.store.add_listener(later.append)
        state = self.created(put(raw=b"x"))
        self.assertEqual(self.flushLoggedErrors(ZeroDivisionError)[0].type, ZeroDivisionError)
        self.assertEqual(later, [[Change(state, 0, b"x")]])

    def test_a_listener_that_writes(self) -> None:
        """Changes of a command that a listener submits are announced after the current ones."""
        done: list[Deferred[Outcome]] = []

        def answer(changes: Sequence[Change]) -> None:
            for change in changes:
                if change.state.path == "a" and change.data:
                    done.append(self.store.submit(post(b"re: " + change.data, "b")))

        later: list[Sequence[Change]] = []
        self.created(put())
        self.created(put("b"))
        self.announced.clear()
        self.store.add_listener(answer)
        self.store.add_listener(later.append)
        self.submit_all(post(b"1"), post(b"2"))
        for deferred in done:
            self.assertIsInstance(self.result(deferred), Appended)
        self.assertEqual(self.content("b"), b"re: 1re: 2")
        self.assertEqual(self.announced, later)
        by_path = [change.data for change in self.changes() if change.state.path == "b"]
        self.assertEqual(by_path, [b"re: 1", b"re: 2"])
