"""Tests of `durable_streams_tw.protocol.streams.producers`."""

from __future__ import annotations

from random import Random

from hypothesis import given
from hypothesis import strategies as st

from durable_streams_tw.protocol import headers
from durable_streams_tw.protocol.errors import Problem, Refusal
from durable_streams_tw.protocol.limits import MAX_SAFE_INTEGER
from durable_streams_tw.protocol.streams.producers import (
    Duplicate,
    ProducerClaim,
    ProducerState,
    check_epoch,
    check_sequence,
)
from tests.protocol.refusal_case import RefusalTestCase

SMALL = st.integers(0, 4)
CLAIMS = st.builds(ProducerClaim, st.just("p"), SMALL, SMALL)


def decide(
    state: ProducerState | None, claim: ProducerClaim
) -> ProducerState | Duplicate | Refusal:
    """Run both steps of an append."""
    return check_epoch(state, claim) or check_sequence(state, claim)


class TableTests(RefusalTestCase):
    """Cases of PROTOCOL.md §5.2.1."""

    def test_accepted(self) -> None:
        """The next sequence number of the epoch, or 0 of a later epoch, is accepted."""
        for state, epoch, seq in (
            (None, 0, 0),
            (None, 7, 0),
            (ProducerState(0, 0), 0, 1),
            (ProducerState(0, 5), 0, 6),
            (ProducerState(0, 5), 1, 0),
            (ProducerState(3, 0), 9, 0),
            (ProducerState(0, MAX_SAFE_INTEGER - 1), 0, MAX_SAFE_INTEGER),
            (ProducerState(0, 0), MAX_SAFE_INTEGER, 0),
        ):
            outcome = decide(state, ProducerClaim("p", epoch, seq))
            self.assertEqual(outcome, ProducerState(epoch, seq))

    def test_duplicates(self) -> None:
        """An accepted number is a duplicate; the response has the highest accepted number."""
        for last in (0, 5):
            state = ProducerState(2, last)
            for seq in range(last + 1):
                self.assertEqual(decide(state, ProducerClaim("p", 2, seq)), Duplicate(state))

    def test_gaps(self) -> None:
        """A later number is a gap; the response has the expected number."""
        for state, seq, expected in (
            (None, 1, 0),
            (None, 9, 0),
            (ProducerState(1, 0), 2, 1),
            (ProducerState(1, 5), 100, 6),
        ):
            outcome = decide(state, ProducerClaim("p", 1, seq))
            refusal = self.assertRefusal(Problem.SEQUENCE_GAP, outcome)
            self.assertEqual(
                refusal.headers,
                (
                    (headers.H_PRODUCER_EXPECTED_SEQ, b"%d" % expected),
                    (headers.H_PRODUCER_RECEIVED_SEQ, b"%d" % seq),
                ),
            )

    def test_fenced(self) -> None:
        """An older epoch is fenced; the response has the current epoch."""
        for seq in (0, 1, 5, 6, 7):
            outcome = decide(ProducerState(4, 5), ProducerClaim("p", 3, seq))
            refusal = self.assertRefusal(Problem.STALE_EPOCH, outcome)
            self.assertEqual(refusal.headers, ((headers.H_PRODUCER_EPOCH, b"4"),))

    def test_new_epoch(self) -> None:
        """A new epoch must start at 0."""
        for seq in (1, 5, 6):
            outcome = decide(ProducerState(4, 5), ProducerClaim("p", 5, seq))
            self.assertRefusal(Problem.EPOCH_WITHOUT_RESTART, outcome)

    def test_fence_passes_others(self) -> None:
        """Fencing lets unknown producers and current epochs pass."""
        self.assertIsNone(check_epoch(None, ProducerClaim("p", 0, 9)))
        self.assertIsNone(check_epoch(ProducerState(4, 5), ProducerClaim("p", 4, 9)))
        self.assertIsNone(check_epoch(ProducerState(4, 5), ProducerClaim("p", 5, 9)))


class ModelTests(RefusalTestCase):
    """Random sequences of batches."""

    @given(st.lists(CLAIMS, max_size=30))
    def test_exactly_once(self, claims: list[ProducerClaim]) -> None:
        """Each batch is accepted at most once, in order and without gaps.

        A repeated batch of the current epoch is a duplicate, and a refused batch does not change
        the state.
        """
        state: ProducerState | None = None
        accepted: list[tuple[int, int]] = []
        for claim in claims:
            batch = (claim.epoch, claim.seq)
            outcome = decide(state, claim)
            if isinstance(outcome, ProducerState):
                self.assertNotIn(batch, accepted)
                if accepted:
                    epoch, seq = accepted[-1]
                    follows = batch == (epoch, seq + 1) or (claim.epoch > epoch and claim.seq == 0)
                    self.assertTrue(follows, (accepted, batch))
                else:
                    self.assertEqual(claim.seq, 0)
                self.assertEqual(outcome, ProducerState(*batch))
                accepted.append(batch)
                state = outcome
            elif isinstance(outcome, Duplicate):
                self.assertIn(batch, accepted)
                self.assertEqual(claim.epoch, accepted[-1][0])
                self.assertEqual(outcome.state, state)
            elif batch in accepted:
                self.assertEqual(outcome.problem, Problem.STALE_EPOCH)

    @given(
        st.lists(st.integers(1, 5), min_size=1, max_size=4),
        st.randoms(use_true_random=False),
    )
    def test_retries_succeed(self, epochs: list[int], random: Random) -> None:
        """A producer that retries its batches in any order gets all accepted once, in order."""
        state: ProducerState | None = None
        accepted: list[tuple[int, int]] = []
        for epoch, count in enumerate(epochs):
            open_batches = list(range(count))
            while open_batches:
                random.shuffle(open_batches)
                for seq in list(open_batches):
                    outcome = decide(state, ProducerClaim("p", epoch, seq))
                    if isinstance(outcome, ProducerState):
                        state = outcome
                        accepted.append((epoch, seq))
                    elif isinstance(outcome, Duplicate):
                        open_batches.remove(seq)
        self.assertEqual(
            accepted, [(epoch, seq) for epoch, count in enumerate(epochs) for seq in range(count)]
        )
