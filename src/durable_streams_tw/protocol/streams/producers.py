"""Idempotent producers: epochs fence, sequence numbers deduplicate (PROTOCOL.md §5.2.1).

A stream keeps a bounded number of producers in two generations. A producer that appends joins
the current generation. When it is full a new one begins and the second to last is dropped. So
the most recent producers are kept, at least as many as a generation holds and at most twice as
many, and no append searches for a producer to evict.
"""

from __future__ import annotations

from typing import Final

from msgspec import Struct

from durable_streams_tw.protocol import headers
from durable_streams_tw.protocol.errors import Problem, Refusal


class ProducerClaim(Struct, frozen=True, array_like=True, gc=False):
    """Producer headers of a request: id, epoch, and sequence number of the batch."""

    id: str
    epoch: int
    seq: int


class ProducerState(Struct, frozen=True, array_like=True, gc=False):
    """State of a producer in a stream: its epoch and the last accepted sequence number."""

    epoch: int
    last_seq: int


class Generation(Struct, frozen=True, array_like=True, gc=False):
    """Current generation of a stream's producers: its number and size."""

    number: int = 0
    size: int = 0

    def remembers(self, number: int) -> bool:
        """Return whether producers of a generation are still kept."""
        return number >= self.number - 1

    def joined(self, most: int) -> Generation:
        """Return the generation after another producer joins.

        A new one begins if this has ``most`` producers; 0 means no bound.
        """
        if most and self.size >= most:
            return Generation(self.number + 1, 1)
        return Generation(self.number, self.size + 1)


FIRST_GENERATION: Final = Generation()


class Duplicate(Struct, frozen=True):
    """Result for a batch that was accepted before; ``state`` is the producer's state."""

    state: ProducerState


_UNKNOWN: Final = ProducerState(epoch=-1, last_seq=-1)


def check_epoch(state: ProducerState | None, claim: ProducerClaim) -> Refusal | None:
    """Return a refusal if a newer epoch has fenced the producer, on closed streams too."""
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
    """Return the next state of the producer, a `Duplicate`, or a refusal.

    ``state`` is None for an unknown producer. Call `check_epoch` first: it refuses stale epochs.
    """
    known = _UNKNOWN if state is None else state
    if claim.epoch > known.epoch:
        if claim.seq == 0:
            return ProducerState(claim.epoch, 0)
        if state is None:
            return _gap(0, claim.seq)
        return Refusal(
            Problem.EPOCH_WITHOUT_RESTART,
            f"epoch {claim.epoch} is new, so its first Producer-Seq must be 0, not {claim.seq}",
        )
    if claim.seq <= known.last_seq:
        return Duplicate(known)
    if claim.seq == known.last_seq + 1:
        return ProducerState(known.epoch, claim.seq)
    return _gap(known.last_seq + 1, claim.seq)


def _gap(expected: int, received: int) -> Refusal:
    return Refusal(
        Problem.SEQUENCE_GAP,
        f"expected Producer-Seq {expected}, received {received}",
        (
            (headers.H_PRODUCER_EXPECTED_SEQ, b"%d" % expected),
            (headers.H_PRODUCER_RECEIVED_SEQ, b"%d" % received),
        ),
    )
