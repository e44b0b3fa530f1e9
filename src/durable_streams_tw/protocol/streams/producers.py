"""Idempotent producers: epochs fence, sequence numbers deduplicate (PROTOCOL.md §5.2.1).

A stream remembers a bounded number of producers, in two generations. One that appends joins the
current generation. When that is full a new one begins, and the one before the last is forgotten. So
at least as many producers are remembered as a generation holds, those that appended last, and at
most twice as many; and no append has to search for the one to forget.
"""

from __future__ import annotations

from typing import Final

from msgspec import Struct

from durable_streams_tw.protocol import headers
from durable_streams_tw.protocol.errors import Problem, Refusal


class ProducerClaim(Struct, frozen=True, array_like=True, gc=False):
    """What a request says of its producer: id, epoch, sequence number of this batch."""

    id: str
    epoch: int
    seq: int


class ProducerState(Struct, frozen=True, array_like=True, gc=False):
    """What a stream remembers of one producer: its epoch, the last number accepted."""

    epoch: int
    last_seq: int


class Generation(Struct, frozen=True, array_like=True, gc=False):
    """The current generation of a stream's producers: its number, and how many are in it."""

    number: int = 0
    size: int = 0

    def remembers(self, number: int) -> bool:
        """Return whether producers of a generation are still remembered."""
        return number >= self.number - 1

    def joined(self, most: int) -> Generation:
        """Return the generation after one more producer joins: the next one where ``most`` are in
        this; 0 is no bound."""
        if most and self.size >= most:
            return Generation(self.number + 1, 1)
        return Generation(self.number, self.size + 1)


FIRST_GENERATION: Final = Generation()


class Duplicate(Struct, frozen=True):
    """The batch was accepted before; ``state`` is what the stream remembers."""

    state: ProducerState


_UNKNOWN: Final = ProducerState(epoch=-1, last_seq=-1)


def check_epoch(state: ProducerState | None, claim: ProducerClaim) -> Refusal | None:
    """Refuse a producer of an older epoch. Holds on a closed stream too."""
    if state is not None and claim.epoch < state.epoch:
        return Refusal(
            Problem.STALE_EPOCH,
            f"epoch {claim.epoch} was fenced by epoch {state.epoch}",
            ((headers.H_PRODUCER_EPOCH, b"%d" % state.epoch),),
        )
    return None


def check_sequence(
    state: ProducerState | None, claim: ProducerClaim
) -> ProducerState | Duplicate | Refusal:
    """The producer's next state, or that the batch is a duplicate, or a refusal.

    ``state`` is None for a producer that the stream does not know. Stale epochs are
    `check_epoch`'s to refuse, before.
    """
    known = _UNKNOWN if state is None else state
    if claim.epoch > known.epoch:
        if claim.seq == 0:
            return ProducerState(claim.epoch, 0)
        if state is None:
            return _gap(0, claim.seq)
        return Refusal(
            Problem.EPOCH_WITHOUT_RESTART,
            f"epoch {claim.epoch} is new, so its first Producer-Seq is 0, not {claim.seq}",
        )
    if claim.seq <= known.last_seq:
        return Duplicate(known)
    if claim.seq == known.last_seq + 1:
        return ProducerState(known.epoch, claim.seq)
    return _gap(known.last_seq + 1, claim.seq)


def _gap(expected: int, received: int) -> Refusal:
    return Refusal(
        Problem.SEQUENCE_GAP,
        f"Producer-Seq {expected} is expected next, {received} was received",
        (
            (headers.H_PRODUCER_EXPECTED_SEQ, b"%d" % expected),
            (headers.H_PRODUCER_RECEIVED_SEQ, b"%d" % received),
        ),
    )
