"""Tests of `durable_streams_tw.protocol.subscriptions.state`: tables, and random events."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from durable_streams_tw.protocol.errors import Problem, Refusal
from durable_streams_tw.protocol.subscriptions import state as rules
from durable_streams_tw.protocol.subscriptions.state import (
    Action,
    AlreadyClaimed,
    Config,
    Kind,
    Subscription,
    TokenClaims,
    Wake,
)
from tests.protocol.refusal_case import RefusalTestCase

NOW = 1_800_000_000_000
TTL = 30_000
PULL = Config(Kind.PULL, "*", None, "wake", TTL, None)
HOOK = Config(Kind.WEBHOOK, "*", "https://hook.example/", None, TTL, None)
IDLE = Subscription(7, "s", PULL, b"digest", NOW - 1000, generation=3)
WAKE = Wake(4, "w_4")
PROOF = TokenClaims(7, WAKE)


def waking(config: Config = PULL) -> Subscription:
    return rules.begin_wake(replace(IDLE, config=config), "a", "w_4", NOW)


def leased(config: Config = PULL) -> Subscription:
    if config is HOOK:
        return rules.renew_lease(waking(config), NOW)
    claimed = rules.claim(rules.mark_offered(waking()), "worker", NOW)
    assert isinstance(claimed, Subscription)
    return claimed


class TransitionTests(RefusalTestCase):
    """Single transitions."""

    def test_woken(self) -> None:
        state = waking()
        self.assertEqual((state.generation, state.wake_id, state.trigger), (4, "w_4", "a"))
        self.assertEqual(rules.next_action(state), (Action.WRITE_EVENT, NOW))
        self.assertEqual(rules.next_action(waking(HOOK)), (Action.CALL_WEBHOOK, NOW))
        self.assertRaises(AssertionError, rules.begin_wake, state, "a", "w", NOW)

    def test_offered(self) -> None:
        state = rules.mark_offered(rules.record_failure(waking(), NOW, 0.5))
        self.assertIsNone(rules.next_action(state))
        self.assertFalse(state.idle or state.leased or state.failing)

    def test_claim(self) -> None:
        for state in (waking(), rules.mark_offered(waking())):
            claimed = rules.claim(state, "worker", NOW + 5)
            assert isinstance(claimed, Subscription)
            self.assertEqual(claimed.holder, "worker")
            self.assertEqual((claimed.generation, claimed.wake_id), (4, "w_4"))
            self.assertEqual(rules.next_action(claimed), (Action.EXPIRE_LEASE, NOW + 5 + TTL))
        refusal = rules.claim(leased(), "other", NOW)
        assert isinstance(refusal, AlreadyClaimed)
        self.assertEqual((refusal.holder, refusal.generation), ("worker", 4))
        self.assertRefusal(Problem.NO_PENDING_WORK, rules.claim(IDLE, "w", NOW))
        self.assertRefusal(Problem.INVALID_REQUEST, rules.claim(waking(HOOK), "w", NOW))

    def test_leases(self) -> None:
        for state in (leased(), leased(HOOK)):
            self.assertFalse(rules.lease_expired(state, NOW + TTL - 1))
            self.assertTrue(rules.lease_expired(state, NOW + TTL))
            later = rules.renew_lease(state, NOW + 1000)
            self.assertFalse(rules.lease_expired(later, NOW + TTL + 999))
            self.assertEqual(later.holder, state.holder)
        self.assertFalse(rules.lease_expired(waking(), NOW + 10**9))

    def test_rested(self) -> None:
        for state in (waking(), leased(), rules.record_failure(waking(HOOK), NOW, 0.0)):
            rested = rules.end_wake(state)
            self.assertTrue(rested.idle)
            self.assertEqual(rested.generation, 4)
            self.assertIsNone(rules.next_action(rested))
            self.assertIsNone(rested.holder)

    def test_failed(self) -> None:
        state = waking(HOOK)
        for count, pause in enumerate((1, 2, 4, 8, 16, 32, 60, 60), 1):
            state = rules.record_failure(state, NOW, 0.5)
            self.assertEqual(state.failures, count)
            self.assertEqual(rules.next_action(state), (Action.CALL_WEBHOOK, NOW + pause * 1000))
            self.assertTrue(rules.is_current(state, WAKE) and state.failing)

    def test_fence(self) -> None:
        for kind, state in ((Kind.PULL, leased()), (Kind.WEBHOOK, leased(HOOK))):
            self.assertIsNone(rules.check_wake(state, kind, PROOF, WAKE, NOW))
            other = Wake(4, "w_5")
            for proof, wake, now in (
                (TokenClaims(8, WAKE), WAKE, NOW),
                (TokenClaims(7, other), WAKE, NOW),
                (PROOF, other, NOW),
                (TokenClaims(7, other), other, NOW),
                (TokenClaims(7, Wake(3, "w_4")), Wake(3, "w_4"), NOW),
                (PROOF, Wake(5, "w_4"), NOW),
                (PROOF, WAKE, NOW + TTL),
            ):
                refusal = rules.check_wake(state, kind, proof, wake, now)
                self.assertRefusal(Problem.FENCED, refusal)
            rested = rules.end_wake(state)
            refusal = rules.check_wake(rested, kind, PROOF, WAKE, NOW)
            self.assertRefusal(Problem.FENCED, refusal)
            bad = Refusal(Problem.TOKEN_INVALID, "")
            self.assertIs(rules.check_wake(state, kind, bad, WAKE, NOW), bad)
        wrong = rules.check_wake(leased(), Kind.WEBHOOK, PROOF, WAKE, NOW)
        self.assertRefusal(Problem.INVALID_REQUEST, wrong)
        # A webhook may call back before it responds; a wake of a pull-wake subscription has no
        # holder.
        self.assertIsNone(rules.check_wake(waking(HOOK), Kind.WEBHOOK, PROOF, WAKE, NOW))
        offered = rules.mark_offered(waking())
        self.assertRefusal(Problem.FENCED, rules.check_wake(offered, Kind.PULL, PROOF, WAKE, NOW))

    @given(st.integers(0, 20), st.integers(0, 20))
    def test_acknowledge(self, acked: int, position: int) -> None:
        refusal = rules.check_ack(acked, position)
        self.assertEqual(refusal is None, acked <= position)

    def test_reconfirm(self) -> None:
        self.assertIsNone(rules.check_configuration(IDLE, b"digest"))
        refusal = rules.check_configuration(IDLE, b"other")
        self.assertRefusal(Problem.SUBSCRIPTION_ALREADY_EXISTS, refusal)


_chances = st.floats(0, 1)
_events = st.one_of(
    st.tuples(st.just("wake")),
    st.tuples(st.just("claim"), st.sampled_from(("v", "w"))),
    st.tuples(st.just("beat"), st.booleans()),
    st.tuples(st.just("done"), st.booleans()),
    st.tuples(st.just("fail"), _chances),
    st.tuples(st.just("offer")),
    st.tuples(st.just("sleep"), st.sampled_from((1, TTL // 2, TTL))),
)


class AnyEventTests(RefusalTestCase):
    """Random events lead to valid phases, and generations only increase."""

    @given(st.sampled_from((PULL, HOOK)), st.lists(_events, max_size=60))
    def test_any(self, config: Config, events: list[tuple[Any, ...]]) -> None:
        now = NOW
        state = replace(IDLE, config=config)
        seen: list[Wake] = []
        for what, *rest in events:
            before = state
            if what == "sleep":
                now += rest[0]
            elif what == "wake" and state.idle:
                state = rules.begin_wake(state, "a", f"w_{state.generation + 1}", now)
                assert state.wake_id is not None
                seen.append(Wake(state.generation, state.wake_id))
            elif what == "claim":
                claimed = rules.claim(state, rest[0], now)
                state = state if isinstance(claimed, Refusal) else claimed
            elif what in ("beat", "done") and seen:
                wake = seen[0] if rest[0] else seen[-1]
                proof = TokenClaims(state.number, wake)
                refusal = rules.check_wake(state, config.kind, proof, wake, now)
                if refusal is None:
                    self.assertEqual(wake, seen[-1])
                    again = rules.renew_lease(state, now)
                    state = again if what == "beat" else rules.end_wake(state)
            elif what == "fail" and not state.idle and not state.leased:
                state = rules.record_failure(state, now, rest[0])
            elif what == "offer" and config is PULL and not state.idle and not state.leased:
                state = rules.mark_offered(state)
            self._check(before, state, now)
            if rules.lease_expired(state, now):
                state = rules.end_wake(state)

    def _check(self, before: Subscription, state: Subscription, now: int) -> None:
        self.assertGreaterEqual(state.generation, before.generation)
        if state.wake_id != before.wake_id and state.wake_id is not None:
            self.assertEqual(state.generation, before.generation + 1)
        due, lease = state.next_attempt_at is not None, state.lease_until is not None
        self.assertFalse(due and lease)
        owed = rules.next_action(state)
        self.assertEqual(owed is None, not (due or lease))
        if state.idle:
            self.assertFalse(due or lease or state.failing or state.holder is not None)
        if state.config.kind is Kind.WEBHOOK and not state.idle:
            self.assertTrue(due or lease)
        if lease and state.config.kind is Kind.PULL:
            self.assertIsNotNone(state.holder)
