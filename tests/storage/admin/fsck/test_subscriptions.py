"""Tests of the subscription check: it finds each kind of flaw, and no others."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from twisted.trial.unittest import SynchronousTestCase

from durable_streams_tw.protocol.subscriptions.commands import Claim, Unsubscribe
from durable_streams_tw.protocol.subscriptions.state import (
    Config,
    Cursor,
    ExplicitLink,
    Kind,
    Subscription,
)
from durable_streams_tw.storage.access_times import AccessTimes
from durable_streams_tw.storage.admin.fsck.findings import Flaw
from durable_streams_tw.storage.admin.fsck.store import check
from durable_streams_tw.storage.api import Command
from durable_streams_tw.storage.durable.committer import Committer
from durable_streams_tw.storage.engine import codec
from durable_streams_tw.storage.engine.format_version import check_format
from durable_streams_tw.storage.engine.tables import (
    CURSORS,
    LINKS,
    SUBSCRIPTIONS,
    Table,
    load,
    owned_key,
    subscription_key,
)
from tests.storage.command_builders import JSON, append, create, delete
from tests.storage.engine.fake_engine import FakeEngine
from tests.storage.suites.subscription_suite import subscribe

LONG = "events/" + "x" * 600


def subscribed_store() -> FakeEngine:
    """Return a store with subscriptions in all phases, and one marked for deletion."""
    engine = FakeEngine()
    check_format(engine, "the fake", 0)
    committer = Committer(engine, AccessTimes(), lambda: 1000, clock=lambda: 0.0)
    batches: list[list[Command]] = [
        [create("wake", content_type=JSON), create("a", b"abc"), create(LONG, b"x")],
        [create("quiet", b"abc")],
        [subscribe("idle", "none/*", ("quiet", "missing")), subscribe("leased", "events/**")],
        [subscribe("waking", "**", (), None), subscribe("offered", None, ("a", LONG))],
        [subscribe("gone", "**", ("a",))],
        [append("a", b"d"), append(LONG, b"y"), delete("a"), create("a", b"z")],
        [Claim("leased", "w"), Unsubscribe("gone")],
    ]
    for batch in batches:
        for outcome in committer.step(batch).outcomes:
            assert not hasattr(outcome, "problem"), outcome
    return engine


class CheckSubscriptionTests(SynchronousTestCase):
    """One store with one kind of damage at a time."""

    def setUp(self) -> None:
        self.engine = subscribed_store()

    def found(self) -> set[Flaw]:
        return {finding.flaw for finding in check(self.engine, deep=True)}

    def state(self, name: str) -> Subscription:
        with self.engine.snapshot() as view:
            state = load(view, SUBSCRIPTIONS, subscription_key(name))
        assert state is not None, name
        return state

    def put(self, table: Table[Any], key: bytes, value: Any) -> None:
        whole = table.prefix + key
        self.engine.content[whole] = codec.seal(whole, table.pack(value))

    def drop(self, table: Table[Any], key: bytes) -> None:
        del self.engine.content[table.prefix + key]

    def number(self, name: str) -> int:
        """Return the number of a subscription, which differs between stores."""
        return self.state(name).number

    def assertFinds(self, flaw: Flaw = Flaw.SUBSCRIPTION) -> None:
        """Assert that there is exactly one finding, and restore the store."""
        self.assertEqual(self.found(), {flaw})
        self.engine = subscribed_store()

    def change(self, name: str, **fields: Any) -> None:
        state = self.state(name)
        self.put(SUBSCRIPTIONS, subscription_key(name), replace(state, **fields))

    def test_sound(self) -> None:
        self.assertEqual(list(check(self.engine, deep=True)), [])
        kinds = {key[:1] for key in self.engine.content}
        self.assertLessEqual({b"u", b"e", b"k", b"g"}, kinds)

    def test_phases(self) -> None:
        for name, fields in (
            ("idle", {"next_attempt_at": 5}),
            ("idle", {"lease_until": 5}),
            ("idle", {"holder": "w"}),
            ("idle", {"failures": 1}),
            ("idle", {"wake_id": "w"}),
            ("waking", {"lease_until": 5}),
            ("waking", {"next_attempt_at": None}),
            ("waking", {"wake_id": None, "next_attempt_at": None}),
            ("offered", {"wake_id": None}),
            ("leased", {"holder": None}),
        ):
            self.change(name, **fields)
            self.assertFinds()

    def test_identity(self) -> None:
        state = self.state("idle")
        self.put(SUBSCRIPTIONS, subscription_key("other"), replace(state, number=10**18))
        self.assertIn(Flaw.SUBSCRIPTION, self.found())
        self.engine = subscribed_store()
        self.change("idle", id="other")
        self.assertFinds()
        self.change("idle", number=1)
        self.assertIn(Flaw.SUBSCRIPTION, self.found())
        self.engine = subscribed_store()
        self.change("idle", number=self.state("waking").number)
        self.assertIn(Flaw.SUBSCRIPTION, self.found())
        self.engine = subscribed_store()
        new = Subscription(10**18, "new", self.state("idle").config, b"", 0)
        self.put(SUBSCRIPTIONS, b"new", new)
        self.assertFinds(Flaw.NEXT_ID)

    def test_configuration(self) -> None:
        for name, config in (
            ("waking", Config(Kind.WEBHOOK, "**", None, None, 1000, None)),
            ("waking", Config(Kind.WEBHOOK, "a//b", "https://x/", None, 1000, None)),
            ("offered", Config(Kind.PULL, None, None, None, 1000, None)),
        ):
            self.change(name, config=config)
            self.assertIn(Flaw.SUBSCRIPTION, self.found())
            self.engine = subscribed_store()

    def test_links(self) -> None:
        self.drop(LINKS, owned_key(self.number("idle"), "missing"))
        self.assertFinds()
        self.put(LINKS, owned_key(self.number("idle"), "more"), ExplicitLink("more"))
        self.assertFinds()
        self.put(LINKS, owned_key(self.number("idle"), "quiet"), ExplicitLink("b"))
        self.assertFinds()
        self.put(LINKS, owned_key(10**18, "a"), ExplicitLink("a"))
        self.assertIn(Flaw.ORPHAN, self.found())

    def test_cursors(self) -> None:
        self.put(CURSORS, owned_key(self.number("idle"), "quiet"), Cursor("quiet", 0))
        self.assertFinds()
        for cursor in (Cursor("a", 1), Cursor("a", 9), Cursor("a", -1), Cursor("b", 0)):
            self.put(CURSORS, owned_key(self.number("offered"), "a"), cursor)
            self.assertFinds()
        self.put(CURSORS, owned_key(self.number("offered"), "wake"), Cursor("wake", 0))
        self.assertFinds()
        self.put(CURSORS, owned_key(self.number("offered"), "none"), Cursor("none", 0))
        self.assertFinds()
        for path in ("a", LONG):
            self.drop(CURSORS, owned_key(self.number("offered"), path))
        self.assertFinds()
        self.put(CURSORS, owned_key(10**18, "a"), Cursor("a", 0))
        self.assertIn(Flaw.ORPHAN, self.found())

    def test_keys_of_strange_form(self) -> None:
        for key in (b"e", b"k123", b"e12345678"):
            self.engine.content[key] = codec.seal(key, LINKS.pack(ExplicitLink("a")))
            self.assertIn(Flaw.STRANGE_KEY, self.found())
            del self.engine.content[key]

    def test_lost_subscription(self) -> None:
        """Records of a missing subscription are orphans."""
        self.drop(SUBSCRIPTIONS, subscription_key("offered"))
        self.assertFinds(Flaw.ORPHAN)

    @given(st.data())
    def test_any_flipped_bit(self, data: st.DataObject) -> None:
        engine = FakeEngine(self.engine.content)
        key = data.draw(st.sampled_from(sorted(k for k in engine.content if k[:1] in b"uek")))
        value = bytearray(engine.content[key])
        bit = data.draw(st.integers(0, len(value) * 8 - 1))
        value[bit // 8] ^= 1 << bit % 8
        engine.content[key] = bytes(value)
        self.assertIn((Flaw.CORRUPT_RECORD, key), [(f.flaw, f.key) for f in check(engine)])
