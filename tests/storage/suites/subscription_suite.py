"""Suite: subscriptions. `tests.storage.store_case` explains its use."""

from __future__ import annotations

import json
from typing import Any

from twisted.internet.defer import Deferred

from durable_streams_tw.protocol.errors import Problem, Refusal
from durable_streams_tw.protocol.limits import (
    MAX_EXPLICIT_STREAMS,
    MAX_LINKED_AT_ONCE,
    MAX_WAKE_STREAMS,
)
from durable_streams_tw.protocol.streams.state import Lifetime
from durable_streams_tw.protocol.subscriptions.commands import (
    Ack,
    Claim,
    Delivered,
    DeliveryResult,
    Due,
    LinkStreams,
    Release,
    Settle,
    Subscribe,
    UnlinkStream,
    Unsubscribe,
)
from durable_streams_tw.protocol.subscriptions.outcomes import (
    Claimed,
    Relinked,
    Settled,
    Subscribed,
    Unsubscribed,
)
from durable_streams_tw.protocol.subscriptions.parsing import config_digest
from durable_streams_tw.protocol.subscriptions.state import (
    GONE,
    AlreadyClaimed,
    Config,
    Kind,
    Subscription,
    TokenClaims,
    Wake,
)
from durable_streams_tw.storage.api import RecordChange
from durable_streams_tw.storage.commands.subscription_queries import (
    DescribeSubscription,
    Description,
)
from durable_streams_tw.storage.engine.tables import (
    CURSORS,
    SUBSCRIPTIONS,
    owned_range,
    subscription_key,
)
from tests.storage.command_builders import fork
from tests.storage.store_case import JSON, Ask, StoreCase, post, put

LEASE = 1000


def subscribe(
    name: str = "s",
    pattern: str | None = "events/*",
    streams: tuple[str, ...] = (),
    wake_stream: str | None = "wake",
    lease_ttl: int = LEASE,
    description: str | None = None,
    url: str = "https://hook.example/",
) -> Subscribe:
    """Return a pull-wake subscription, or a webhook if ``wake_stream`` is None."""
    kind = Kind.WEBHOOK if wake_stream is None else Kind.PULL
    config = Config(
        kind, pattern, url if wake_stream is None else None, wake_stream, lease_ttl, description
    )
    return Subscribe(name, config, streams, config_digest(config, streams))


class SubscriptionCase(StoreCase):
    """Helpers for control requests. ``notes`` has the notifications of the store."""

    def begin(self) -> None:
        super().begin()
        self.notes: list[RecordChange] = []
        self.owner.add_record_listener(self.notes.extend)

    def restart(self) -> None:
        before = self.store
        super().restart()
        if self.store is not before:
            self.owner.add_record_listener(self.notes.extend)

    def subscribed(self, command: Subscribe, fresh: bool = True) -> Subscription:
        outcome = self.submit(command)
        assert isinstance(outcome, Subscribed), outcome
        self.assertEqual(outcome.fresh, fresh)
        return outcome.state

    def claimed(self, name: str = "s", worker: str = "w") -> Claimed:
        outcome = self.submit(Claim(name, worker))
        assert isinstance(outcome, Claimed), outcome
        return outcome

    def settled(self, command: Settle | Release | Delivered | Due) -> Settled:
        outcome = self.submit(command)
        assert isinstance(outcome, Settled), outcome
        return outcome

    def ack(
        self,
        state: Subscription,
        *acks: tuple[str, int],
        done: bool = True,
        kind: Kind = Kind.PULL,
    ) -> Settle:
        """Return a settlement by the worker that holds the wake."""
        wake = self.wake(state)
        taken = tuple(Ack(path, position) for path, position in acks)
        return Settle(state.id, kind, TokenClaims(state.number, wake), wake, taken, done)

    def wake(self, state: Subscription) -> Wake:
        assert state.wake_id is not None, state
        return Wake(state.generation, state.wake_id)

    def release(self, state: Subscription) -> Release:
        wake = self.wake(state)
        return Release(state.id, TokenClaims(state.number, wake), wake)

    def delivered(
        self,
        state: Subscription,
        result: DeliveryResult,
        *seen: tuple[str, int],
        chance: float = 0.5,
    ) -> Delivered:
        taken = tuple(Ack(path, position) for path, position in seen)
        return Delivered(state.id, state.number, self.wake(state), result, taken, chance)

    def stored(self, name: str = "s") -> Subscription:
        """Return the subscription from the store."""
        state = self.result(
            self.owner.query(Ask(lambda moment: moment.get(SUBSCRIPTIONS, subscription_key(name))))
        )
        assert isinstance(state, Subscription), state
        return state

    def cursors(self, name: str = "s") -> dict[str, int]:
        """Return the acknowledged positions of streams with pending work."""
        number = self.stored(name).number
        found = self.result(
            self.owner.query(
                Ask(
                    lambda moment: [
                        (cursor.path, cursor.acked)
                        for _, cursor in moment.range(CURSORS, *owned_range(number))
                    ]
                )
            )
        )
        assert not isinstance(found, Refusal)
        return dict(found)

    def description(self, name: str = "s") -> Description:
        found = self.described(name)
        assert isinstance(found, Description), found
        return found

    def described(self, name: str) -> Description | Refusal:
        """Return the description, or the refusal."""
        described: Deferred[Any] = self.store.query(DescribeSubscription(name))
        found: Description | Refusal = self.result(described)
        return found

    def links(self, name: str = "s") -> dict[str, tuple[str, int]]:
        """Return the linked streams: kind of link and acknowledged position."""
        return {
            link.path: ("explicit" if link.explicit else "glob", link.acked)
            for link in self.description(name).links
        }

    def events(self, path: str = "wake") -> list[dict[str, Any]]:
        """Return the events of a wake stream."""
        return [json.loads(message) for message in self.messages(path)]


class SubscriptionSuite(SubscriptionCase):
    """Rules of §6 and §7 that a store implements."""

    def pull(self, **changes: Any) -> Subscription:
        """Create a wake stream and a subscription to events/*."""
        self.created(put("wake", JSON, b"[]"))
        return self.subscribed(subscribe(**changes))

    # -- creation, links --------------------------------------------------------------------------

    def test_create_and_reconfirm(self) -> None:
        state = self.subscribed(subscribe())
        self.assertEqual((state.generation, state.wake_id), (0, None))
        again = self.subscribed(subscribe(), fresh=False)
        self.assertEqual(again, state)
        for other in (
            subscribe(pattern="events/**"),
            subscribe(streams=("a",)),
            subscribe(wake_stream=None),
            subscribe(lease_ttl=2000),
            subscribe(description="x"),
            subscribe(wake_stream="other"),
        ):
            self.assertRefused(Problem.SUBSCRIPTION_ALREADY_EXISTS, self.submit(other))
        self.restart()
        self.assertEqual(self.subscribed(subscribe(), fresh=False), state)

    def test_existing_content(self) -> None:
        """Bytes from before the subscription are not pending."""
        self.created(put("events/a", raw=b"abc"))
        self.created(put("events/a/b", raw=b"abc"))
        self.created(put("other/a", raw=b"abc"))
        self.pull(streams=("events/a", "missing"), pattern="events/*")
        self.created(put("events/new"))
        expected = {
            "events/a": ("explicit", 3),
            "events/new": ("glob", 0),
            "missing": ("explicit", 0),
        }
        self.assertEqual(self.links(), expected)
        self.assertEqual(self.cursors(), {})
        self.assertTrue(self.stored().idle)
        self.restart()
        self.assertEqual(self.links(), expected)

    def test_appends_after_the_link(self) -> None:
        """Appends after the subscription are pending, and so is the content of new streams."""
        self.created(put("events/a", raw=b"abc"))
        self.pull()
        self.appended(post(b"de", "events/a"))
        self.created(put("events/b", raw=b"x"))
        self.created(put("events/c"))
        self.assertEqual(self.cursors(), {"events/a": 3, "events/b": 0})
        self.assertEqual(self.links()["events/c"], ("glob", 0))
        items = self.claimed().items
        told = [(item.path, item.acked, item.tail, item.explicit) for item in items]
        self.assertEqual(told, [("events/a", 3, 5, False), ("events/b", 0, 1, False)])

    def test_the_wake_begins_with_its_cause(self) -> None:
        self.pull()
        self.created(put("events/b", raw=b"x"))
        self.created(put("events/a", raw=b"x"))
        self.assertEqual([item.path for item in self.claimed().items], ["events/b", "events/a"])

    def test_explicit_membership(self) -> None:
        """An explicit link takes precedence; its removal leaves the link by glob (§6.1, §6.4)."""
        self.created(put("events/a", raw=b"abc"))
        self.created(put("other/b", raw=b"ab"))
        self.pull()
        outcome = self.submit(LinkStreams("s", ("events/a", "other/b")))
        assert isinstance(outcome, Relinked), outcome
        self.submit(LinkStreams("s", ("events/a",)))
        self.assertEqual(self.links(), {"events/a": ("explicit", 3), "other/b": ("explicit", 2)})
        self.appended(post(b"d", "events/a"))
        self.appended(post(b"c", "other/b"))
        self.assertEqual(self.cursors(), {"events/a": 3, "other/b": 2})
        self.restart()
        for _ in range(2):
            self.submit(UnlinkStream("s", "events/a"))
            self.submit(UnlinkStream("s", "other/b"))
        self.assertEqual(self.links(), {"events/a": ("glob", 3)})
        self.assertEqual(self.cursors(), {"events/a": 3})
        self.assertEqual(self.stored().explicit, 0)

    def test_too_many_names(self) -> None:
        self.subscribed(subscribe(streams=("a",)))
        paths = tuple(f"p{number}" for number in range(MAX_EXPLICIT_STREAMS))
        self.assertRefused(Problem.INVALID_REQUEST, self.submit(LinkStreams("s", paths)))
        self.assertEqual(self.stored().explicit, 1)
        for start in range(0, MAX_EXPLICIT_STREAMS - MAX_LINKED_AT_ONCE, MAX_LINKED_AT_ONCE):
            added = paths[start : start + MAX_LINKED_AT_ONCE]
            self.assertIsInstance(self.submit(LinkStreams("s", added)), Relinked)
        last = LinkStreams("s", paths[-MAX_LINKED_AT_ONCE:])
        self.assertRefused(Problem.INVALID_REQUEST, self.submit(last))
        self.assertEqual(self.stored().explicit, MAX_EXPLICIT_STREAMS - MAX_LINKED_AT_ONCE + 1)

    def test_too_many_names_at_once(self) -> None:
        streams = tuple(f"p{number:05}" for number in range(MAX_LINKED_AT_ONCE + 1))
        refused = self.submit(subscribe(pattern=None, streams=streams))
        self.assertRefused(Problem.INVALID_REQUEST, refused)
        self.subscribed(subscribe(pattern=None, streams=streams[1:]))
        # The index forgets them too.
        self.assertIsInstance(self.submit(Unsubscribe("s")), Unsubscribed)
        self.created(put("p00001", raw=b"x"))
        self.subscribed(subscribe(pattern=None, streams=("a",)))
        self.assertTrue(self.stored().idle)

    def test_unlinking_the_last_work(self) -> None:
        """Unlinking the only pending stream of an unclaimed wake ends the wake."""
        self.pull(pattern=None, streams=("a", "b"))
        self.created(put("a", raw=b"x"))
        self.assertFalse(self.stored().idle)
        self.submit(UnlinkStream("s", "a"))
        self.assertTrue(self.stored().idle)
        self.created(put("b", raw=b"x"))
        self.assertEqual(self.stored().generation, 2)

    def test_missing(self) -> None:
        proof = TokenClaims(1, Wake(0, ""))
        for command in (
            LinkStreams("s", ("a",)),
            UnlinkStream("s", "a"),
            Claim("s", "w"),
            Settle("s", Kind.PULL, proof, proof.wake, (), True),
            Release("s", proof, proof.wake),
        ):
            self.assertRefused(Problem.SUBSCRIPTION_NOT_FOUND, self.submit(command))
        self.assertIsInstance(self.submit(Unsubscribe("s")), Unsubscribed)
        self.assertEqual(self.described("s"), GONE)
        self.assertEqual(self.settled(Due("s", 1)), Settled(None))

    # -- wakes ------------------------------------------------------------------------------------

    def test_one_wake_at_a_time(self) -> None:
        """Only the first append to an idle subscription causes a wake event (§7.2)."""
        self.pull()
        self.created(put("events/a"))
        self.assertEqual(self.events(), [])
        for number in range(3):
            self.appended(post(b"x", "events/a"))
            self.created(put(f"events/{number}", raw=b"y"))
        expected = {"type": "wake", "subscription_id": "s", "stream": "events/a", "generation": 1}
        self.assertEqual(self.events(), [{**expected, "ts": self.now}])

    def test_one_write_per_stream(self) -> None:
        """Appends to a pending stream write nothing for its subscription."""
        self.pull()
        self.created(put("events/a", raw=b"x"))
        self.notes.clear()
        self.submit_all(*[post(b"x", "events/a") for _ in range(5)])
        self.assertEqual(self.notes, [])

    def test_nothing_without_subscriptions(self) -> None:
        self.created(put("events/a", raw=b"x"))
        self.pull()
        self.created(put("other/a", raw=b"x"))
        self.assertEqual([note.value.idle for note in self.notes], [True])

    def test_wake_streams_cause_no_wakes(self) -> None:
        """Wake streams are never pending, of the same subscription or another (§6)."""
        self.created(put("wake", JSON))
        self.created(put("wake2", JSON))
        self.subscribed(subscribe("x", "**"))
        self.subscribed(subscribe("y", "*", wake_stream="wake2"))
        self.created(put("a", raw=b"x"))
        self.appended(post(b"[1]", "wake", JSON))
        for name, path in (("x", "wake"), ("y", "wake2")):
            self.assertEqual(self.cursors(name), {"a": 0})
            self.assertEqual(self.stored(name).generation, 1)
            self.assertEqual(len(self.events(path)), 2 if name == "x" else 1)

    def test_stream_becomes_a_wake_stream(self) -> None:
        """A stream that becomes a wake stream is no longer pending; afterwards its appends count
        again.
        """
        self.created(put("wake", JSON))
        self.created(put("w", JSON, b"[1]"))
        self.subscribed(subscribe("x", "*"))
        self.appended(post(b"[2]", "w", JSON))
        self.assertEqual(self.cursors("x"), {"w": 2})
        self.subscribed(subscribe("y", "a", wake_stream="w"))
        self.assertEqual(self.cursors("x"), {})
        self.assertTrue(self.stored("x").idle)
        self.submit(Unsubscribe("y"))
        self.appended(post(b"[3]", "w", JSON))
        self.assertEqual(self.cursors("x"), {"w": 4})

    def test_missing_wake_stream(self) -> None:
        """A wake without its wake stream is retried until the stream exists."""
        self.subscribed(subscribe())
        self.created(put("events/a", raw=b"x"))
        state = self.stored()
        self.assertEqual((state.failures, state.generation), (1, 1))
        assert state.next_attempt_at is not None
        self.assertTrue(800 <= state.next_attempt_at - self.now <= 1200)
        self.settled(Due("s", state.number))
        self.assertEqual(self.stored(), state)
        self.now = state.next_attempt_at
        self.settled(Due("s", state.number))
        self.assertEqual(self.stored().failures, 2)
        self.created(put("wake", JSON))
        self.assertEqual([event["generation"] for event in self.events()], [1])
        self.assertEqual((self.stored().failures, self.stored().next_attempt_at), (0, None))

    def test_recreated_wake_stream(self) -> None:
        """An unclaimed wake event is written again to a new wake stream."""
        self.pull()
        self.created(put("events/a", raw=b"x"))
        self.deleted("wake")
        self.created(put("wake", "text/plain"))
        text = self.content("wake").decode()
        self.assertEqual(json.loads(text)["generation"], 1)
        self.assertTrue(text.endswith("\n"))
        self.settled(self.ack(self.claimed().state, ("events/a", 1)))
        self.appended(post(b"x", "wake", closed=True))
        self.appended(post(b"x", "events/a"))
        self.assertEqual(self.stored().failures, 1)
        self.claimed()

    # -- claim, ack, release ----------------------------------------------------------------------

    def test_claim(self) -> None:
        self.pull()
        self.assertRefused(Problem.NO_PENDING_WORK, self.submit(Claim("s", "w")))
        self.created(put("events/a", raw=b"xy"))
        first, second = self.submit_all(Claim("s", "w1"), Claim("s", "w2"))
        assert isinstance(first, Claimed), first
        state = first.state
        self.assertEqual((state.holder, state.lease_until), ("w1", self.now + LEASE))
        assert isinstance(second, AlreadyClaimed), second
        self.assertEqual((second.holder, second.generation), ("w1", 1))
        self.restart()
        self.assertRefused(Problem.ALREADY_CLAIMED, self.submit(Claim("s", "w1")))
        self.assertEqual(self.stored(), state)

    def test_heartbeat_and_done(self) -> None:
        self.pull()
        self.created(put("events/a", raw=b"abcd"))
        state = self.claimed().state
        self.sleep(0.5)
        outcome = self.settled(self.ack(state, ("events/a", 2), done=False))
        self.assertEqual(outcome.next_wake, False)
        self.assertEqual(self.stored().lease_until, self.now + LEASE)
        self.assertEqual(self.cursors(), {"events/a": 2})
        self.restart()
        self.assertEqual(self.links(), {"events/a": ("glob", 2)})
        done = self.settled(self.ack(state, ("events/a", 4)))
        self.assertFalse(done.next_wake)
        self.assertTrue(self.stored().idle)
        self.assertEqual(self.links(), {"events/a": ("glob", 4)})
        self.assertEqual(len(self.events()), 1)

    def test_more_work_wakes_again(self) -> None:
        self.pull()
        self.created(put("events/a", raw=b"a"))
        state = self.claimed().state
        self.appended(post(b"b", "events/a"))
        self.created(put("events/b", raw=b"b"))
        self.assertEqual(len(self.events()), 1)
        self.assertTrue(self.settled(self.ack(state, ("events/a", 1))).next_wake)
        self.assertEqual([event["generation"] for event in self.events()], [1, 2])
        after = self.claimed().state
        self.assertNotEqual(after.wake_id, state.wake_id)
        self.assertTrue(self.settled(self.release(after)).next_wake)
        self.assertEqual(self.stored().generation, 3)
        done = self.ack(self.claimed().state, ("events/a", 2), ("events/b", 1))
        self.assertFalse(self.settled(done).next_wake)

    def test_invalid_acks(self) -> None:
        """One invalid ack refuses the whole request."""
        self.created(put("events/j", JSON, b'["abc","d"]'))
        self.created(put("other", raw=b"x"))
        self.pull()
        self.created(put("events/a", raw=b"abcd"))
        state = self.claimed().state
        self.settled(self.ack(state, ("events/a", 2), done=False))
        before = self.stored()
        self.sleep(0.1)
        for ack in (
            ("events/a", 1),
            ("events/a", 5),
            ("events/none", 0),
            ("other", 1),
            ("wake", 0),
            ("events/j", 4),
        ):
            command = self.ack(state, ("events/a", 3), ack)
            self.assertRefused(Problem.INVALID_OFFSET, self.submit(command))
        self.assertEqual(self.stored(), before)
        self.assertEqual(self.cursors(), {"events/a": 2})
        self.appended(post(b'["ef"]', "events/j", JSON))
        self.assertRefused(Problem.INVALID_OFFSET, self.submit(self.ack(state, ("events/j", 13))))
        self.settled(self.ack(state, ("events/a", 3), ("events/a", 2), ("events/j", 15)))
        self.assertEqual(self.cursors(), {"events/a": 3})

    def test_fencing(self) -> None:
        """Generation, wake id and token must be those of the current wake (§7.3)."""
        self.pull()
        self.created(put("events/a", raw=b"abcd"))
        old = self.claimed().state
        self.settled(self.release(old))
        state = self.claimed().state
        wake = self.wake(state)
        proof = TokenClaims(state.number, wake)
        stale = [
            (TokenClaims(old.number, self.wake(old)), self.wake(old)),
            (proof, self.wake(old)),
            (TokenClaims(old.number, self.wake(old)), wake),
            (proof, Wake(wake.generation, "w_other")),
            (proof, Wake(wake.generation + 1, wake.wake_id)),
            (TokenClaims(state.number + 1, wake), wake),
        ]
        before, cursors = self.stored(), self.cursors()
        self.notes.clear()
        for shown, meant in stale:
            acks = (Ack("events/a", 4),)
            for command in (
                Settle("s", Kind.PULL, shown, meant, acks, True),
                Settle("s", Kind.PULL, shown, meant, (), False),
                Release("s", shown, meant),
            ):
                self.assertRefused(Problem.FENCED, self.submit(command))
        bad = Refusal(Problem.TOKEN_EXPIRED, "")
        self.assertRefused(Problem.TOKEN_EXPIRED, self.submit(Release("s", bad, wake)))
        wrong = Settle("s", Kind.WEBHOOK, proof, wake, (), True)
        self.assertRefused(Problem.INVALID_REQUEST, self.submit(wrong))
        self.assertEqual((self.stored(), self.cursors(), self.notes), (before, cursors, []))

    def test_lease_runs_out(self) -> None:
        self.pull()
        self.created(put("events/a", raw=b"abcd"))
        state = self.claimed().state
        self.sleep(LEASE / 1000)
        self.assertRefused(Problem.FENCED, self.submit(self.ack(state, ("events/a", 4))))
        self.settled(Due("s", state.number))
        after = self.stored()
        self.assertEqual((after.generation, after.holder, after.lease_until), (2, None, None))
        self.assertEqual([event["generation"] for event in self.events()], [1, 2])
        self.assertRefused(Problem.FENCED, self.submit(self.release(state)))
        # No `Due` command was submitted, but a worker claims.
        lost = self.claimed(worker="lost").state
        self.sleep(LEASE / 1000)
        found = self.claimed(worker="found").state
        self.assertEqual((lost.generation, found.generation, found.holder), (2, 3, "found"))

    def test_lease_runs_out_behind_the_work(self) -> None:
        self.pull()
        self.created(put("events/a", raw=b"abcd"))
        state = self.claimed().state
        self.settled(self.ack(state, ("events/a", 4), done=False))
        self.sleep(LEASE / 1000)
        self.assertFalse(self.settled(Due("s", state.number)).next_wake)
        self.assertTrue(self.stored().idle)

    def test_due_too_early(self) -> None:
        self.pull()
        self.created(put("events/a", raw=b"abcd"))
        state = self.claimed().state
        self.settled(Due("s", state.number))
        self.settled(Due("s", state.number + 1))
        self.assertEqual(self.stored(), state)

    def test_round_robin(self) -> None:
        """A wake has at most `MAX_WAKE_STREAMS` streams; the next one starts after them."""
        self.pull()
        paths = [f"events/{number:05d}" for number in range(MAX_WAKE_STREAMS + 10)]
        self.submit_all(*[put(path, raw=b"x") for path in paths])
        claimed = self.claimed()
        self.assertEqual([item.path for item in claimed.items], paths[:MAX_WAKE_STREAMS])
        acks = [(item.path, item.tail) for item in claimed.items]
        self.submit_all(*[post(b"y", path) for path in paths[:MAX_WAKE_STREAMS]])
        self.assertTrue(self.settled(self.ack(claimed.state, *acks)).next_wake)
        items = self.claimed().items
        self.assertEqual([item.path for item in items[:10]], paths[MAX_WAKE_STREAMS:])
        self.assertEqual(items[10].path, paths[0])

    # -- streams that end -------------------------------------------------------------------------

    def test_a_stream_is_deleted(self) -> None:
        self.pull(streams=("events/b",))
        self.created(put("events/a", raw=b"x"))
        self.created(put("events/b", raw=b"x"))
        self.deleted("events/a")
        self.assertEqual(self.links(), {"events/b": ("explicit", 0)})
        self.assertFalse(self.stored().idle)
        self.deleted("events/b")
        self.assertEqual(self.links(), {"events/b": ("explicit", 0)})
        self.assertTrue(self.stored().idle)
        self.assertRefused(Problem.NO_PENDING_WORK, self.submit(Claim("s", "w")))
        self.created(put("events/b", raw=b"again"))
        self.assertEqual(self.cursors(), {"events/b": 0})
        self.assertEqual(self.stored().generation, 2)

    def test_a_stream_is_deleted_under_a_lease(self) -> None:
        self.pull()
        self.created(put("events/a", raw=b"x"))
        state = self.claimed().state
        self.deleted("events/a")
        self.assertEqual(self.stored(), state)
        self.assertRefused(Problem.INVALID_OFFSET, self.submit(self.ack(state, ("events/a", 1))))
        self.assertFalse(self.settled(self.ack(state)).next_wake)

    def test_stream_expires(self) -> None:
        """An expired stream is not pending, also before the sweep."""
        self.pull()
        self.created(put("events/a", raw=b"x", lifetime=Lifetime(ttl=1)))
        self.sleep(1)
        self.assertRefused(Problem.NO_PENDING_WORK, self.submit(Claim("s", "w")))
        self.sweep(self.store)
        self.assertTrue(self.stored().idle)
        self.created(put("events/a", raw=b"x", lifetime=Lifetime(ttl=1)))
        state = self.claimed().state
        self.sleep(1)
        self.assertFalse(self.settled(Due("s", state.number)).next_wake)
        self.assertEqual((self.stored().idle, self.cursors()), (True, {}))

    def test_forks(self) -> None:
        """Inherited bytes of a fork are not pending, appended ones are."""
        self.created(put("source", raw=b"abc"))
        self.pull()
        self.submit(fork("events/f", "source"))
        self.assertEqual(self.links(), {"events/f": ("glob", 3)})
        self.submit(fork("events/g", "source", 2, b"xy"))
        self.assertEqual(self.cursors(), {"events/g": 2})
        self.submit(fork("events/h", "events/g"))
        self.deleted("events/g")
        self.assertEqual(self.cursors(), {})
        self.assertEqual(set(self.links()), {"events/f", "events/h"})

    # -- webhooks ---------------------------------------------------------------------------------

    def hook(self) -> Subscription:
        self.subscribed(subscribe(wake_stream=None))
        self.created(put("events/a", raw=b"abc"))
        state = self.stored()
        self.assertEqual((state.generation, state.next_attempt_at), (1, self.now))
        return state

    def test_webhook_done(self) -> None:
        """A successful delivery acknowledges its offsets, and later appends cause the next wake
        (§7.1).
        """
        state = self.hook()
        self.appended(post(b"de", "events/a"))
        command = self.delivered(state, DeliveryResult.DONE, ("events/a", 3), ("events/gone", 7))
        outcome = self.settled(command)
        self.assertTrue(outcome.next_wake)
        self.assertEqual(self.cursors(), {"events/a": 3})
        again = self.stored()
        self.assertEqual((again.generation, again.next_attempt_at), (2, self.now))
        self.assertNotEqual(again.wake_id, state.wake_id)
        self.settled(self.delivered(state, DeliveryResult.DONE, ("events/a", 5)))
        self.assertEqual(self.cursors(), {"events/a": 3})
        self.settled(self.delivered(again, DeliveryResult.DONE, ("events/a", 5)))
        self.assertTrue(self.stored().idle)

    def test_webhook_calls_back(self) -> None:
        state = self.hook()
        self.settled(self.delivered(state, DeliveryResult.ACCEPTED))
        self.assertEqual(self.stored().lease_until, self.now + LEASE)
        self.sleep(0.5)
        self.settled(self.ack(state, done=False, kind=Kind.WEBHOOK))
        self.assertEqual(self.stored().lease_until, self.now + LEASE)
        done = self.ack(state, ("events/a", 3), kind=Kind.WEBHOOK)
        self.assertEqual(self.settled(done).next_wake, False)
        self.assertRefused(Problem.FENCED, self.submit(done))
        self.assertRefused(Problem.INVALID_REQUEST, self.submit(Claim("s", "w")))
        self.assertRefused(Problem.INVALID_REQUEST, self.submit(self.release(state)))

    def test_webhook_calls_back_before_it_answers(self) -> None:
        state = self.hook()
        self.settled(self.ack(state, done=False, kind=Kind.WEBHOOK))
        leased = self.stored()
        for result in (DeliveryResult.ACCEPTED, DeliveryResult.FAILED):
            self.sleep(0.1)
            self.settled(self.delivered(state, result))
            self.assertEqual(self.stored(), leased)
        self.settled(self.delivered(state, DeliveryResult.DONE, ("events/a", 3)))
        self.assertTrue(self.stored().idle)

    def test_late_webhook_response(self) -> None:
        """A response after the end of the lease has no effect."""
        state = self.hook()
        self.settled(self.heartbeat(state))
        self.sleep(LEASE / 1000)
        before = self.stored()
        self.settled(self.delivered(state, DeliveryResult.DONE, ("events/a", 3)))
        self.assertEqual((self.stored(), self.cursors()), (before, {"events/a": 0}))

    def heartbeat(self, state: Subscription) -> Settle:
        """Return a heartbeat that arrives before the response."""
        return self.ack(state, done=False, kind=Kind.WEBHOOK)

    def test_webhook_never_calls_back(self) -> None:
        state = self.hook()
        self.settled(self.delivered(state, DeliveryResult.ACCEPTED))
        self.sleep(LEASE / 1000)
        self.restart()
        self.settled(Due("s", state.number))
        again = self.stored()
        self.assertEqual((again.generation, again.next_attempt_at), (2, self.now))
        late = self.ack(state, ("events/a", 3), kind=Kind.WEBHOOK)
        self.assertRefused(Problem.FENCED, self.submit(late))

    def test_failing_webhook(self) -> None:
        """The same wake is retried with growing delays, also after a restart (§7.1)."""
        state = self.hook()
        pauses = []
        for _ in range(9):
            self.settled(self.delivered(state, DeliveryResult.FAILED))
            self.restart()
            after = self.stored()
            self.assertEqual(self.wake(after), self.wake(state))
            assert after.next_attempt_at is not None
            pauses.append(after.next_attempt_at - self.now)
            self.settled(Due("s", state.number))
            self.assertEqual(self.stored(), after)
            self.now = after.next_attempt_at
        expected = [1000, 2000, 4000, 8000, 16000, 32000, 60000, 60000, 60000]
        self.assertEqual(pauses, expected)
        self.settled(self.delivered(state, DeliveryResult.ACCEPTED))
        self.assertEqual(self.stored().failures, 0)

    # -- the end ----------------------------------------------------------------------------------

    def test_delete(self) -> None:
        """Commands of a deleted subscription are fenced, also if its id is used again (§6.3)."""
        self.pull(streams=("other",))
        self.created(put("events/a", raw=b"abc"))
        state = self.claimed().state
        self.submit(Unsubscribe("s"))
        done = self.ack(state, ("events/a", 3))
        self.assertRefused(Problem.SUBSCRIPTION_NOT_FOUND, self.submit(done))
        self.assertIsNone(self.notes[-1].value)
        self.appended(post(b"d", "events/a"))
        again = self.subscribed(subscribe())
        self.assertNotEqual(again.number, state.number)
        self.assertEqual(self.links(), {"events/a": ("glob", 4)})
        self.assertRefused(Problem.FENCED, self.submit(done))
        self.sweep(self.store)
        self.restart()
        self.appended(post(b"e", "events/a"))
        self.created(put("other", raw=b"x"))
        self.assertEqual(self.cursors(), {"events/a": 4})

    def test_notified_before_the_outcome(self) -> None:
        """A notification precedes the outcome that caused it."""
        self.pull()
        heard: list[int] = []
        submitted = self.store.submit(put("events/a", raw=b"x"))
        submitted.addCallback(lambda _: heard.append(self.notes[-1].value.generation))
        self.result(submitted)
        self.assertEqual(heard, [1])

    def test_many_subscriptions(self) -> None:
        """An append wakes all subscriptions of the stream in one commit."""
        self.created(put("wake", JSON))
        for number, pattern in enumerate(("**", "events/*", "*/a", "events/**/a", "x/*", "a")):
            self.subscribed(subscribe(f"s{number}", pattern))
        self.created(put("events/a", raw=b"x"))
        woken = [event["subscription_id"] for event in self.events()]
        self.assertEqual(sorted(woken), ["s0", "s1", "s2", "s3"])
