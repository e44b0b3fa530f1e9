"""What a subscription is, and what may become of it (PROTOCOL.md §6.1, §6.2, §7).

A subscription is in one of four phases, told apart by what is set:

=========  ==========  ====================  =================  ================================
phase      `wake_id`   `next_attempt_at`     `lease_until`      what is going on
=========  ==========  ====================  =================  ================================
idle       --          --                    --                 nothing is pending
waking     set         set                   --                 the webhook is to be called, or
                                                                the wake event to be written
offered    set         --                    --                 the event is written; nobody has
                                                                claimed (pull-wake only)
leased     set         --                    set                a worker is at it
=========  ==========  ====================  =================  ================================

While it is idle nothing is pending, and while it is waking or offered something is. Whoever
keeps these two rules loses no wake: all that is owed follows from the state (`next_action`).

Every wake has its own generation and id. What refers to another wake is fenced, and changes
nothing. Times are milliseconds since 1970.
"""

from __future__ import annotations

from enum import Enum
from typing import Final

from msgspec import Struct
from msgspec.structs import replace

from durable_streams_tw.protocol.errors import Problem, Refusal
from durable_streams_tw.protocol.limits import RETRY_FIRST_MS, RETRY_JITTER, RETRY_LAST_MS


class Kind(Enum):
    """How workers are woken."""

    WEBHOOK = "webhook"
    PULL = "pull-wake"


class Config(Struct, frozen=True, array_like=True):
    """What a client asked for, but for the streams that it named.

    ``pattern`` is the text of a glob, ``url`` a webhook's, ``wake_stream`` a stream's name;
    ``lease_ttl`` is in milliseconds.
    """

    kind: Kind
    pattern: str | None
    url: str | None
    wake_stream: str | None
    lease_ttl: int
    description: str | None


class Subscription(Struct, frozen=True, array_like=True):
    """A subscription at one moment, but for its cursors and the streams that it names.

    ``number`` is never given again, so one that is made anew under the same id is another.
    ``digest`` is of the configuration as it was asked for, ``explicit`` counts named streams.
    ``generation`` and ``wake_id`` are those of the wake in flight, ``trigger`` the stream that
    caused it. ``failures`` counts the attempts that failed in a row.
    """

    number: int
    id: str
    config: Config
    digest: bytes
    created_at: int
    explicit: int = 0
    generation: int = 0
    wake_id: str | None = None
    trigger: str = ""
    next_attempt_at: int | None = None
    failures: int = 0
    holder: str | None = None
    lease_until: int | None = None

    @property
    def idle(self) -> bool:
        """Whether no wake is in flight."""
        return self.wake_id is None

    @property
    def leased(self) -> bool:
        """Whether a worker is at it, or was when it was last heard of."""
        return self.lease_until is not None

    @property
    def failing(self) -> bool:
        """Whether an attempt has failed and is to be made again."""
        return self.failures > 0


class Cursor(Struct, frozen=True, array_like=True):
    """How far a stream with pending work is acknowledged: up to the position ``acked``.

    A stream without one is acknowledged up to its tail, wherever that is.
    """

    path: str
    acked: int


class FanOutKind(Enum):
    """Event of a stream that every subscription concerned has to be told of."""

    GROWN = "grown"
    CREATED = "created"
    ENDED = "ended"


class FanOut(Struct, frozen=True, array_like=True):
    """Rest of an event of a stream that concerns more subscriptions than one step updates.

    ``before`` is the tail before the append, for `FanOutKind.GROWN`. Subscriptions with a number
    up to ``reached`` are done.
    """

    path: str
    kind: FanOutKind
    before: int = 0
    reached: int = 0


class ExplicitLink(Struct, frozen=True, array_like=True):
    """An explicit link: the subscription names this stream."""

    path: str


class Wake(Struct, frozen=True):
    """Which wake is meant."""

    generation: int
    wake_id: str


class Proof(Struct, frozen=True):
    """What a valid token says: the subscription's number, and the wake that it was given for."""

    number: int
    wake: Wake


class AlreadyClaimed(Refusal, frozen=True):
    """Another worker holds the lease."""

    holder: str = ""
    generation: int = 0


GONE: Final = Refusal(Problem.SUBSCRIPTION_NOT_FOUND, "there is no subscription of this id")
FENCED: Final = Refusal(
    Problem.FENCED, "the wake is over: it was finished, its lease has run out, or another came"
)
NOTHING_PENDING: Final = Refusal(
    Problem.NO_PENDING_WORK, "no stream of the subscription has anything that is not acknowledged"
)
_OTHER_KIND: Final = {
    Kind.WEBHOOK: Refusal(
        Problem.INVALID_REQUEST, "this is for webhook subscriptions, and this is a pull-wake one"
    ),
    Kind.PULL: Refusal(
        Problem.INVALID_REQUEST, "this is for pull-wake subscriptions, and this is a webhook"
    ),
}


def check_configuration(existing: Subscription, digest: bytes) -> Refusal | None:
    """Refuse a PUT of another configuration than the subscription was made with (§6.2)."""
    if existing.digest == digest:
        return None
    return Refusal(
        Problem.SUBSCRIPTION_ALREADY_EXISTS, "the subscription exists with another configuration"
    )


def with_explicit_count(state: Subscription, explicit: int) -> Subscription:
    """It names so many streams now."""
    return replace(state, explicit=explicit)


# -- wakes ------------------------------------------------------------------------------------


def begin_wake(state: Subscription, trigger: str, wake_id: str, now: int) -> Subscription:
    """An idle subscription has pending work: the next wake, to be carried out at once."""
    assert state.idle, "a wake ends before the next begins"
    return replace(
        state,
        generation=state.generation + 1,
        wake_id=wake_id,
        trigger=trigger,
        next_attempt_at=now,
    )


def end_wake(state: Subscription) -> Subscription:
    """The wake is over."""
    return replace(
        state, wake_id=None, next_attempt_at=None, failures=0, holder=None, lease_until=None
    )


def mark_offered(state: Subscription) -> Subscription:
    """The wake event is written: whoever reads it may claim."""
    return replace(state, next_attempt_at=None, failures=0)


def record_failure(state: Subscription, now: int, chance: float) -> Subscription:
    """An attempt to wake has failed: when the next one is due (§7.1).

    ``chance`` is from 0 to 1.
    """
    failures = state.failures + 1
    return replace(state, failures=failures, next_attempt_at=now + retry_delay(failures, chance))


def retry_delay(failures: int, chance: float) -> int:
    """Milliseconds behind so many failures in a row: doubling, bounded, spread by chance."""
    pause = RETRY_LAST_MS
    if failures < RETRY_LAST_MS.bit_length():
        pause = min(RETRY_FIRST_MS << (failures - 1), RETRY_LAST_MS)
    return round(pause * (1 + RETRY_JITTER * (2 * chance - 1)))


def renew_lease(state: Subscription, now: int) -> Subscription:
    """A sign of life from the worker of this wake: its lease begins anew (§7.3)."""
    return replace(
        state, next_attempt_at=None, failures=0, lease_until=now + state.config.lease_ttl
    )


def lease_expired(state: Subscription, now: int) -> bool:
    """Whether the lease has run out: then the wake is over, and its holder is nobody."""
    return state.lease_until is not None and now >= state.lease_until


def is_current(state: Subscription, wake: Wake) -> bool:
    """Whether this is the wake in flight."""
    return state.generation == wake.generation and state.wake_id == wake.wake_id


# -- what workers ask ---------------------------------------------------------------------------


def claim(state: Subscription, worker: str, now: int) -> Subscription | Refusal:
    """A worker wants the wake in flight (§7.2). Whether there is pending work is another's to
    say; a lease that has run out was ended before."""
    refusal = check_kind(state, Kind.PULL)
    if refusal is not None:
        return refusal
    if state.leased:
        return AlreadyClaimed(
            Problem.ALREADY_CLAIMED,
            "another worker holds the subscription",
            holder=state.holder or "",
            generation=state.generation,
        )
    if state.idle:
        return NOTHING_PENDING
    return replace(renew_lease(state, now), holder=worker)


def check_kind(state: Subscription, kind: Kind) -> Refusal | None:
    """Refuse what is meant for subscriptions of the other kind."""
    return None if state.config.kind is kind else _OTHER_KIND[kind]


def check_wake(
    state: Subscription, kind: Kind, proof: Proof | Refusal, wake: Wake, now: int
) -> Refusal | None:
    """Refuse what does not come from the wake in flight (§7.3).

    ``proof`` is what the token says, or why it says nothing.
    """
    refusal = check_kind(state, kind)
    if refusal is not None:
        return refusal
    if isinstance(proof, Refusal):
        return proof
    if (
        proof.number != state.number
        or proof.wake != wake
        or not is_current(state, wake)
        or lease_expired(state, now)
        or (kind is Kind.PULL and not state.leased)
    ):
        return FENCED
    return None


def check_ack(acked: int, position: int) -> Refusal | None:
    """Refuse to move a cursor from ``acked`` to a position that lies before it."""
    if position < acked:
        return Refusal(Problem.INVALID_OFFSET, "the offset lies before what is acknowledged")
    return None


# -- what is owed -------------------------------------------------------------------------------


class Action(Enum):
    """What the server owes a subscription."""

    CALL = "call the webhook"
    OFFER = "write the wake event"
    LAPSE = "end the lease"


def next_action(state: Subscription) -> tuple[Action, int] | None:
    """What is owed, and when; None while nothing is, or it is the workers' turn."""
    if state.lease_until is not None:
        return Action.LAPSE, state.lease_until
    if state.next_attempt_at is None:
        return None
    duty = Action.CALL if state.config.kind is Kind.WEBHOOK else Action.OFFER
    return duty, state.next_attempt_at
