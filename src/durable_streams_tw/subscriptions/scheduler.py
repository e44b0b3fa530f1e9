"""Scheduler of the next action of each subscription.

The action follows from the stored state of a subscription alone
(`protocol.subscriptions.state.next_action`). The scheduler looks at all subscriptions at startup
and at the changed ones after each commit. It has at most one timer or webhook call for each.

If several nodes share the store, each schedules the subscriptions whose duties it holds, and
confirms that it still holds a duty before it acts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from twisted.internet.defer import CancelledError, Deferred, DeferredList
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from durable_streams_tw import clocks
from durable_streams_tw.protocol.errors import Problem, Refusal
from durable_streams_tw.protocol.subscriptions.commands import Due
from durable_streams_tw.protocol.subscriptions.state import (
    Action,
    Subscription,
    Wake,
    is_current,
    next_action,
)
from durable_streams_tw.storage.api import Duties, IStreamStore, RecordChange
from durable_streams_tw.storage.commands.subscription_queries import (
    ScheduledSubscriptions,
    changed_subscription,
)
from durable_streams_tw.subscriptions import limits

_log = Logger()


Deliver = Callable[[Subscription], Deferred[bool]]
"""Call the webhook of a wake; fire with True if the result has been stored."""


@dataclass(slots=True, eq=False)
class _Entry:
    """Scheduled subscription: its state, its timer and its webhook call."""

    state: Subscription
    # Whether the store has just said that this node holds the duty.
    held: bool = True
    timer: IDelayedCall | None = None
    call: Deferred[bool] | None = None
    # Wake of the call, and the timer that cancels the call after the wake has ended.
    called: Wake | None = None
    grace_timer: IDelayedCall | None = None


class Scheduler:
    """Scheduler of webhook calls and lease expiries, on the reactor's thread.

    Create it before the store is opened, `start` it afterwards, `stop` it before it is closed.
    ``now`` returns the store's time, in milliseconds since the Unix epoch.
    """

    def __init__(
        self, store: IStreamStore, deliver: Deliver, clock: IReactorTime, now: Callable[[], int]
    ) -> None:
        self._store = store
        self._duties = store.duties
        self._deliver = deliver
        self._clock = clock
        self._now = now
        self._entries: dict[str, _Entry] = {}
        # Ids of subscriptions that changed during the initial read; their states are newer.
        self._changed_since_read: set[str] | None = None
        self._reading: IDelayedCall | None = None
        self._renewing: IDelayedCall | None = None
        self._running = False
        store.add_record_listener(self._committed)

    def start(self) -> None:
        """Schedule the next actions of all stored subscriptions, or of those of this node."""
        self._running = True
        self._read()
        if self._duties is not None:
            self._renew(self._duties)

    def stop(self) -> Deferred[None]:
        """Cancel all timers and calls. The Deferred fires when the calls have ended.

        Cancelled calls are repeated after the next start.
        """
        self._running = False
        clocks.cancel(self._reading)
        clocks.cancel(self._renewing)
        calls = [entry.call for entry in self._entries.values() if entry.call is not None]
        ended: Deferred[Any] = DeferredList(calls, consumeErrors=True)
        for name in list(self._entries):
            self._drop(name)
        ended.addCallback(lambda _: None)
        if self._duties is not None:
            release = self._duties.release
            ended.addCallback(lambda _: release()).addErrback(_unheld)
        return ended

    # -- changes -----------------------------------------------------------------------------

    def _read(self) -> None:
        self._reading = None
        self._changed_since_read = set()
        if self._duties is None:
            found = self._store.query(ScheduledSubscriptions())
        else:
            found = self._duties.take()
        found.addCallbacks(self._found, self._unfound)

    def _found(self, found: list[Subscription] | Refusal) -> None:
        changed, self._changed_since_read = self._changed_since_read, None
        if not self._running or changed is None:
            return
        if self._duties is not None or isinstance(found, Refusal):
            # Read again later: another node may stop, the disk may recover.
            self._reading = self._clock.callLater(limits.DUTY_RETRY, self._read)
        if isinstance(found, Refusal):
            return
        for state in found:
            if state.id not in changed:
                self._take(state)

    def _unfound(self, failure: Failure) -> None:
        _log.failure("Could not read the subscriptions", failure)
        self._found(Refusal(Problem.INTERNAL, "could not read the subscriptions"))

    def _committed(self, notes: Sequence[RecordChange]) -> None:
        if not self._running:
            return
        for note in notes:
            changed = changed_subscription(note)
            if changed is None:
                continue
            name, state = changed
            if self._changed_since_read is not None:
                self._changed_since_read.add(name)
            if state is None:
                self._drop(name)
            else:
                self._take(state)

    def _take(self, state: Subscription) -> None:
        entry = self._entries.get(state.id)
        if entry is not None and entry.state.number != state.number:
            self._drop(state.id)
            entry = None
        if entry is None:
            if next_action(state) is None:
                return
            entry = self._entries[state.id] = _Entry(state)
        entry.state = state
        entry.held = True
        self._plan(entry)

    def _drop(self, name: str) -> None:
        entry = self._entries.pop(name, None)
        if entry is None:
            return
        clocks.cancel(entry.timer)
        clocks.cancel(entry.grace_timer)
        if entry.call is not None:
            entry.call.cancel()

    # -- actions ------------------------------------------------------------------------------

    def _plan(self, entry: _Entry, pause: float = 0.0) -> None:
        """Set the timer of the next action, at least ``pause`` seconds from now."""
        clocks.cancel(entry.timer)
        entry.timer = None
        owed = next_action(entry.state)
        if entry.call is not None:
            over = entry.called is None or not is_current(entry.state, entry.called)
            if over and entry.grace_timer is None:
                # The wake has ended: leave the webhook some time to respond, then cancel.
                entry.grace_timer = self._clock.callLater(limits.DELIVERY_GRACE, entry.call.cancel)
            if owed is None or owed[0] is Action.CALL_WEBHOOK:
                return
        if owed is None:
            self._entries.pop(entry.state.id, None)
            return
        delay = max((owed[1] - self._now()) / 1000, pause, 0.0)
        entry.held = entry.held and not delay
        entry.timer = self._clock.callLater(delay, self._do, entry, owed[0])

    def _do(self, entry: _Entry, duty: Action) -> None:
        entry.timer = None
        state = entry.state
        if self._duties is not None and not entry.held:
            held = self._duties.hold([state.id])
            held.addErrback(_unheld).addCallback(self._held, entry, state)
            return
        entry.held = False
        if duty is Action.CALL_WEBHOOK:
            assert state.wake_id is not None, "a wake is delivered"
            entry.called = Wake(state.generation, state.wake_id)
            entry.call = call = self._deliver(state)
            call.addBoth(self._called, entry, state)
        else:
            updated = self._store.submit(Due(state.id, state.number))
            updated.addBoth(self._updated, entry, state)

    def _held(
        self, found: list[Subscription] | Refusal, entry: _Entry, before: Subscription
    ) -> None:
        """Act for a subscription if this node still holds its duty, else forget it."""
        current = self._running and self._entries.get(before.id) is entry
        if not current or entry.state is not before:
            # Deleted, or changed by a commit of this node, which has planned the next action.
            return
        if isinstance(found, Refusal):
            self._plan(entry, limits.DUTY_RETRY)
        elif not found or found[0].number != before.number:
            self._drop(before.id)
        else:
            self._take(found[0])

    def _renew(self, duties: Duties) -> None:
        """Renew the duties of the webhooks that are being called."""
        self._renewing = self._clock.callLater(limits.DUTY_RENEWAL, self._renew, duties)
        called = [name for name, entry in self._entries.items() if entry.call is not None]
        if called:
            # A call whose duty another node holds continues: its wake id fences its result.
            duties.hold(called).addErrback(_unheld)

    def _called(self, known: bool | Failure, entry: _Entry, before: Subscription) -> None:
        entry.call = entry.called = None
        clocks.cancel(entry.grace_timer)
        entry.grace_timer = None
        if isinstance(known, Failure) and not known.check(CancelledError):
            _log.failure("Webhook delivery failed", known)
        self._again(entry, before, limits.DUTY_RETRY)

    def _updated(self, outcome: object, entry: _Entry, before: Subscription) -> None:
        if isinstance(outcome, Failure):
            _log.failure("Could not update a subscription that is due", outcome)
        failed = isinstance(outcome, Failure | Refusal)
        self._again(entry, before, limits.DUTY_RETRY if failed else limits.DUTY_EARLY)

    def _again(self, entry: _Entry, before: Subscription, pause: float) -> None:
        """Schedule the next action, after a pause if the state has not changed."""
        if self._running and self._entries.get(entry.state.id) is entry:
            unchanged = entry.state is before
            if entry.timer is None or unchanged:
                self._plan(entry, pause if unchanged else 0.0)


def _unheld(failure: Failure) -> Refusal:
    _log.failure("Could not renew the duties of subscriptions", failure)
    return Refusal(Problem.INTERNAL, "could not renew the duties of subscriptions")
