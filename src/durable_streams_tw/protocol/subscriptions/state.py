"""State and transitions of subscriptions (PROTOCOL.md §6.1, §6.2, §7).

A subscription has four phases, which follow from the attributes that are set:

=========  ==========  ====================  =================  ================================
phase      `wake_id`   `next_attempt_at`     `lease_until`      meaning
=========  ==========  ====================  =================  ================================
idle       --          --                    --                 no work is pending
waking     set         set                   --                 the webhook has to be called, or
                                                                the wake event to be written
offered    set         --                    --                 the event is written and not
                                                                claimed (pull-wake only)
leased     set         --                    set                a worker holds the lease
=========  ==========  ====================  =================  ================================

Two invariants guarantee that no wake is lost: an idle subscription has no pending work, and a
waking or offered one has. `next_action` derives what the server has to do from the state.

Every wake has its own generation and id. A request for another wake is fenced and changes
nothing. Times are in ms since the Unix epoch.
"""

from __future__ import annotations

from enum import Enum
from typing import Final

from msgspec import Struct
from msgspec.structs import replace

from durable_streams_tw.protocol.errors import Problem, Refusal
from durable_streams_tw.protocol.subscriptions.retries import retry_delay


class Kind(Enum):
    """Kinds of subscriptions: how their workers are woken."""

    WEBHOOK = "webhook"
    PULL = "pull-wake"


class Config(Struct, frozen=True, array_like=True):
    """Configuration of a subscription, without its explicit streams.

    ``pattern`` is the text of a glob, ``url`` the URL of the webhook, ``wake_stream`` a stream
    path. ``lease_ttl`` is in ms.
    """

    kind: Kind
    pattern: str | None
    url: str | None
    wake_stream: str | None
    lease_ttl: int
    description: str | None


class Subscription(Struct, frozen=True, array_like=True):
    """State of a subscription at one commit, without its cursors and explicit streams.

    ``number`` is never reused, so a subscription that is created again under the same id has
    another one. ``digest`` is the hash of the requested configuration, and ``explicit`` counts
    explicit streams. ``generation`` and ``wake_id`` identify the current wake, and ``trigger`` is
    the path of the stream that caused it. ``failures`` counts consecutive failed attempts.
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
        """True if there is no current wake."""
        return self.wake_id is None

    @property
    def leased(self) -> bool:
        """True if the current wake has a lease, which may have expired."""
        return self.lease_until is not None

    @property
    def failing(self) -> bool:
        """True if the last attempt failed and is to be retried."""
        return self.failures > 0


class Cursor(Struct, frozen=True, array_like=True):
    """Position up to which a stream with pending work is acknowledged.

    A stream without a cursor is acknowledged up to its tail.
    """

    path: str
    acked: int


class FanOutKind(Enum):
    """Event of a stream that is applied to each of its subscriptions."""

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
    """Explicit link of a subscription to a stream."""

    path: str


class Wake(Struct, frozen=True, array_like=True):
    """Identity of a wake."""

    generation: int
    wake_id: str


class TokenClaims(Struct, frozen=True, array_like=True, tag=True):
    """Claims of a valid token: the number of the subscription, and the wake it was issued for."""

    number: int
    wake: Wake


class AlreadyClaimed(Refusal, frozen=True):
    """Refusal of a claim while another worker holds the lease."""

    holder: str = ""
    generation: int = 0


GONE: Final = Refusal(Problem.SUBSCRIPTION_NOT_FOUND, "there is no subscription with this id")
OTHER_CONFIGURATION: Final = Refusal(
    Problem.SUBSCRIPTION_ALREADY_EXISTS, "the subscription exists with another configuration"
)
FENCED: Final = Refusal(
    Problem.FENCED,
    "the wake is no longer current: it is done, its lease expired, or a newer wake replaced it",
)
NOTHING_PENDING: Final = Refusal(
    Problem.NO_PENDING_WORK, "every stream of the subscription is acknowledged up to its tail"
)
_OTHER_KIND: Final = {
    Kind.WEBHOOK: Refusal(
        Problem.INVALID_REQUEST,
        "only webhook subscriptions have this resource; this is a pull-wake subscription",
    ),
    Kind.PULL: Refusal(
        Problem.INVALID_REQUEST,
        "only pull-wake subscriptions have this resource; this is a webhook subscription",
    ),
}


def check_configuration(existing: Subscription, digest: bytes) -> Refusal | None:
    """Return a refusal if a PUT has another configuration than the subscription (§6.2)."""
    return None if existing.digest == digest else OTHER_CONFIGURATION


def with_explicit_count(state: Subscription, explicit: int) -> Subscription:
    """Return a subscription with another number of explicit streams."""
    return replace(state, explicit=explicit)


# -- wakes --------------------------------------------------------------------------------


def begin_wake(state: Subscription, trigger: str, wake_id: str, now: int) -> Subscription:
    """Begin the next wake of an idle subscription, with its first attempt due now."""
    assert state.idle, "the previous wake has ended"
    return replace(
        state,
        generation=state.generation + 1,
        wake_id=wake_id,
        trigger=trigger,
        next_attempt_at=now,
    )


def end_wake(state: Subscription) -> Subscription:
    """End the current wake."""
    return replace(
        state, wake_id=None, next_attempt_at=None, failures=0, holder=None, lease_until=None
    )


def mark_offered(state: Subscription) -> Subscription:
    """Record that the wake event is written, so that workers can claim the wake."""
    return replace(state, next_attempt_at=None, failures=0)


def record_failure(state: Subscription, now: int, chance: float) -> Subscription:
    """Record a failed attempt and schedule the next one (§7.1).

    ``chance`` is a random number in [0, 1].
    """
    failures = state.failures + 1
    return replace(state, failures=failures, next_attempt_at=now + retry_delay(failures, chance))


def renew_lease(state: Subscription, now: int) -> Subscription:
    """Start or renew the lease of the current wake (§7.3)."""
    return replace(
        state, next_attempt_at=None, failures=0, lease_until=now + state.config.lease_ttl
    )


def lease_expired(state: Subscription, now: int) -> bool:
    """Return whether the lease has expired, which ends the wake."""
    return state.lease_until is not None and now >= state.lease_until


def is_current(state: Subscription, wake: Wake) -> bool:
    """Return whether ``wake`` is the current wake."""
    return state.generation == wake.generation and state.wake_id == wake.wake_id


# -- requests of workers ------------------------------------------------------------------


def claim(state: Subscription, worker: str, now: int) -> Subscription | Refusal:
    """Give a worker the lease of the current wake (§7.2), or return a refusal.

    The caller has ended an expired lease and checks for pending work.
    """
    refusal = check_kind(state, Kind.PULL)
    if refusal is not None:
        return refusal
    if state.leased:
        return AlreadyClaimed(
            Problem.ALREADY_CLAIMED,
            "another worker holds the lease",
            holder=state.holder or "",
            generation=state.generation,
        )
    if state.idle:
        return NOTHING_PENDING
    return replace(renew_lease(state, now), holder=worker)


def check_kind(state: Subscription, kind: Kind) -> Refusal | None:
    """Return a refusal if a subscription is not of ``kind``."""
    return None if state.config.kind is kind else _OTHER_KIND[kind]


def check_wake(
    state: Subscription, kind: Kind, proof: TokenClaims | Refusal, wake: Wake, now: int
) -> Refusal | None:
    """Return a refusal unless a request is of the current wake (§7.3).

    ``proof`` is the claims of its token, or the refusal of the token.
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
    """Return a refusal if an ack would move a cursor back from ``acked`` to ``position``."""
    if position < acked:
        return Refusal(Problem.INVALID_OFFSET, "the offset is before the acknowledged position")
    return None


# -- actions of the server ----------------------------------------------------------------


class Action(Enum):
    """Actions of the server for a subscription."""

    CALL_WEBHOOK = "call the webhook"
    WRITE_EVENT = "write the wake event"
    EXPIRE_LEASE = "end the lease"


def next_action(state: Subscription) -> tuple[Action, int] | None:
    """Return the next action and when it is due, or None if only a worker can act."""
    if state.lease_until is not None:
        return Action.EXPIRE_LEASE, state.lease_until
    if state.next_attempt_at is None:
        return None
    action = Action.CALL_WEBHOOK if state.config.kind is Kind.WEBHOOK else Action.WRITE_EVENT
    return action, state.next_attempt_at
