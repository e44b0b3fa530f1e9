"""Wakes: what is owed to subscriptions, done when it is due.

All that is owed follows from a subscription's state as the store has it
(`protocol.subscriptions.state.next_action`), so there is nothing else to be kept: after each commit
the states that it changed are looked at, at the start all of them, and for each there is at most
one timer or one call under way.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from twisted.internet.defer import CancelledError, Deferred, DeferredList
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from durable_streams_tw.protocol.errors import Problem, Refusal
from durable_streams_tw.protocol.subscriptions.commands import Due
from durable_streams_tw.protocol.subscriptions.state import (
    Action,
    Subscription,
    Wake,
    is_current,
    next_action,
)
from durable_streams_tw.storage.api import IStreamStore, RecordChange, StoreSnapshot
from durable_streams_tw.storage.engine.tables import SUBSCRIPTIONS
from durable_streams_tw.storage.errors import CorruptRecord
from durable_streams_tw.subscriptions.limits import DELIVERY_GRACE, DUTY_EARLY, DUTY_RETRY

_log = Logger()


class Deliver(Protocol):
    """Calls the webhook of a wake: `webhooks.Deliveries.deliver`."""

    def __call__(self, state: Subscription) -> Deferred[bool]:
        """Whether the store knows now what came of it."""


class _Charge:
    """A subscription that something is owed to, or was: its state, a timer, a call."""

    __slots__ = ("call", "called", "patience", "state", "timer")

    def __init__(self, state: Subscription) -> None:
        self.state = state
        self.timer: IDelayedCall | None = None
        self.call: Deferred[bool] | None = None
        # Which wake the call is for, and who ends it when that is over.
        self.called: Wake | None = None
        self.patience: IDelayedCall | None = None


class Scheduler:
    """Keeps the server's promises to the subscriptions of a store.

    Make it before the store is opened, `start` it afterwards, `stop` it before it is closed.
    ``now`` returns the store's time, in milliseconds since the Unix epoch.
    """

    def __init__(
        self, store: IStreamStore, deliver: Deliver, clock: IReactorTime, now: Callable[[], int]
    ) -> None:
        self._store = store
        self._deliver = deliver
        self._clock = clock
        self._now = now
        self._charges: dict[str, _Charge] = {}
        # What was heard of while the store was read, and is newer than that.
        self._heard: set[str] | None = None
        self._reading: IDelayedCall | None = None
        self._running = False
        store.add_record_listener(self._committed)

    def start(self) -> None:
        """Take up what is owed since before."""
        self._running = True
        self._read()

    def stop(self) -> Deferred[None]:
        """Do nothing more. Fires when calls that are under way have ended; they will be made
        again."""
        self._running = False
        _cancel(self._reading)
        calls = []
        for charge in self._charges.values():
            _cancel(charge.timer)
            _cancel(charge.patience)
            if charge.call is not None:
                calls.append(charge.call)
        self._charges.clear()
        ended: Deferred[Any] = DeferredList(calls, consumeErrors=True)
        for call in calls:
            call.cancel()
        return ended.addCallback(lambda _: None)

    # -- what there is ------------------------------------------------------------------------

    def _read(self) -> None:
        self._reading = None
        self._heard = set()
        self._store.query(_owed).addCallbacks(self._found, self._unfound)

    def _found(self, found: list[Subscription] | Refusal) -> None:
        heard, self._heard = self._heard, None
        if not self._running or heard is None:
            return
        if isinstance(found, Refusal):
            # Nothing is forgotten: what is heard of is taken up at once, the rest when the
            # disk answers.
            self._reading = self._clock.callLater(DUTY_RETRY, self._read)
            return
        for state in found:
            if state.id not in heard:
                self._take(state)

    def _unfound(self, failure: Failure) -> None:
        _log.failure("reading subscriptions failed", failure)
        self._found(Refusal(Problem.INTERNAL, "the subscriptions were not read"))

    def _committed(self, notes: Sequence[RecordChange]) -> None:
        if not self._running:
            return
        for note in notes:
            if note.table is not SUBSCRIPTIONS:
                continue
            name = note.key.decode("utf-8")
            if self._heard is not None:
                self._heard.add(name)
            if note.value is None:
                self._drop(name)
            else:
                self._take(note.value)

    def _take(self, state: Subscription) -> None:
        charge = self._charges.get(state.id)
        if charge is not None and charge.state.number != state.number:
            self._drop(state.id)
            charge = None
        if charge is None:
            if next_action(state) is None:
                return
            charge = self._charges[state.id] = _Charge(state)
        charge.state = state
        self._plan(charge)

    def _drop(self, name: str) -> None:
        charge = self._charges.pop(name, None)
        if charge is None:
            return
        _cancel(charge.timer)
        _cancel(charge.patience)
        if charge.call is not None:
            charge.call.cancel()

    # -- what is due --------------------------------------------------------------------------

    def _plan(self, charge: _Charge, pause: float = 0.0) -> None:
        """Set the timer for what is owed, ``pause`` seconds from now at the earliest."""
        _cancel(charge.timer)
        charge.timer = None
        owed = next_action(charge.state)
        if charge.call is not None:
            over = charge.called is None or not is_current(charge.state, charge.called)
            if over and charge.patience is None:
                # What it was made for is settled; its answer may be on its way.
                charge.patience = self._clock.callLater(DELIVERY_GRACE, charge.call.cancel)
            if owed is None or owed[0] is Action.CALL_WEBHOOK:
                return
        if owed is None:
            self._charges.pop(charge.state.id, None)
            return
        delay = max((owed[1] - self._now()) / 1000, pause, 0.0)
        charge.timer = self._clock.callLater(delay, self._do, charge, owed[0])

    def _do(self, charge: _Charge, duty: Action) -> None:
        charge.timer = None
        state = charge.state
        if duty is Action.CALL_WEBHOOK:
            assert state.wake_id is not None, "a wake is delivered"
            charge.called = Wake(state.generation, state.wake_id)
            charge.call = call = self._deliver(state)
            call.addBoth(self._called, charge, state)
        else:
            told = self._store.submit(Due(state.id, state.number))
            told.addBoth(self._told, charge, state)

    def _called(self, known: bool | Failure, charge: _Charge, before: Subscription) -> None:
        charge.call = charge.called = None
        _cancel(charge.patience)
        charge.patience = None
        if isinstance(known, Failure) and not known.check(CancelledError):
            _log.failure("a delivery failed", known)
        self._again(charge, before, DUTY_RETRY)

    def _told(self, outcome: object, charge: _Charge, before: Subscription) -> None:
        if isinstance(outcome, Failure):
            _log.failure("a subscription's turn failed", outcome)
        failed = isinstance(outcome, Failure | Refusal)
        self._again(charge, before, DUTY_RETRY if failed else DUTY_EARLY)

    def _again(self, charge: _Charge, before: Subscription, pause: float) -> None:
        """Go on, after a pause where nothing has come of it."""
        if self._running and self._charges.get(charge.state.id) is charge:
            unchanged = charge.state is before
            if charge.timer is None or unchanged:
                self._plan(charge, pause if unchanged else 0.0)


def _owed(moment: StoreSnapshot) -> list[Subscription]:
    """The subscriptions that something is owed to. Those that cannot be read are left out."""
    found: list[Subscription] = []
    first = b""
    while True:
        try:
            for key, state in moment.range(SUBSCRIPTIONS, first, None):
                first = key + b"\x00"
                if next_action(state) is not None:
                    found.append(state)
        except CorruptRecord as corrupt:
            _log.error("a subscription is left out: {corrupt}", corrupt=corrupt)
            first = corrupt.key[len(SUBSCRIPTIONS.prefix) :] + b"\x00"
        else:
            return found


def _cancel(call: IDelayedCall | None) -> None:
    if call is not None and call.active():
        call.cancel()
