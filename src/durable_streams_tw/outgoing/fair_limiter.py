"""Fair concurrency limit for hosts that clients choose.

A host that hangs holds its slot until a timeout. So no group of hosts gets more than its share,
groups take turns, and some slots are reserved for hosts that responded promptly last time.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from dataclasses import dataclass
from ipaddress import ip_address

from twisted.internet.defer import Deferred

from durable_streams_tw.datastructures.bounded_cache import BoundedCache


@dataclass(slots=True, eq=False)
class Slot:
    """Permission to run, from `FairLimiter.enter` to `FairLimiter.leave`."""

    host: str
    group: str
    prompt: bool


class FairLimiter:
    """Limiter to ``total`` slots: ``share`` per group, ``kept`` reserved for prompt hosts.

    A host that responded promptly last time is a group of its own. Others are grouped by the last
    two labels of their name, because the owner of a domain can create any number of names in it.
    The ``remembered`` most recently prompt hosts are known. Not thread-safe.
    """

    def __init__(self, total: int, share: int, kept: int, remembered: int) -> None:
        self._total = total
        self._share = share
        self._kept = kept
        self._prompt: BoundedCache[str, None] = BoundedCache(remembered)
        self._running: Counter[str] = Counter()
        self._taken = 0
        self._unproven = 0
        # For prompt hosts and others: groups in the order of their turns, each with its Deferreds
        # in order of arrival.
        self._waiting: dict[bool, OrderedDict[str, OrderedDict[Deferred[Slot], Slot]]] = {
            True: OrderedDict(),
            False: OrderedDict(),
        }
        self._admitting = False
        self._prompt_first = True

    @property
    def running(self) -> int:
        """The number of slots in use."""
        return self._taken

    @property
    def waiting(self) -> int:
        """The number of Deferreds that wait for a slot."""
        return sum(len(queue) for groups in self._waiting.values() for queue in groups.values())

    def is_prompt(self, host: str) -> bool:
        """Return True if a host responded promptly last time."""
        return host in self._prompt

    def enter(self, host: str) -> Deferred[Slot]:
        """Return a Deferred that fires with a slot. Cancelling it leaves the queue."""
        prompt = self.is_prompt(host)
        slot = Slot(host, host if prompt else group_of(host), prompt)
        entered: Deferred[Slot] = Deferred(lambda entered: self._remove(slot, entered))
        if self._has_room(prompt) and self._running[slot.group] < self._share:
            self._take(slot)
            entered.callback(slot)
        else:
            self._waiting[prompt].setdefault(slot.group, OrderedDict())[entered] = slot
        return entered

    def leave(self, slot: Slot, *, prompt: bool) -> None:
        """Release a slot; ``prompt`` is True if the host responded in time."""
        self._running[slot.group] -= 1
        if not self._running[slot.group]:
            del self._running[slot.group]
        self._taken -= 1
        self._unproven -= not slot.prompt
        if prompt:
            self._prompt.put(slot.host, None)
        else:
            self._prompt.pop(slot.host)
        self._admit()

    def _has_room(self, prompt: bool) -> bool:
        return self._taken < self._total and (prompt or self._unproven < self._total - self._kept)

    def _take(self, slot: Slot) -> None:
        self._running[slot.group] += 1
        self._taken += 1
        self._unproven += not slot.prompt

    def _remove(self, slot: Slot, entered: Deferred[Slot]) -> None:
        groups = self._waiting[slot.prompt]
        queue = groups[slot.group]
        del queue[entered]
        if not queue:
            del groups[slot.group]

    def _admit(self) -> None:
        """Give free slots to waiting Deferreds, one group after another."""
        # A callback may call `leave`, which calls this again; the outer loop continues.
        if self._admitting:
            return
        self._admitting = True
        try:
            while (found := self._next()) is not None:
                entered, slot = found
                self._remove(slot, entered)
                groups = self._waiting[slot.prompt]
                if slot.group in groups:
                    groups.move_to_end(slot.group)
                self._take(slot)
                # Alternate, so that neither kind starves.
                self._prompt_first = not slot.prompt
                entered.callback(slot)
        finally:
            self._admitting = False

    def _next(self) -> tuple[Deferred[Slot], Slot] | None:
        for prompt in (self._prompt_first, not self._prompt_first):
            if not self._has_room(prompt):
                continue
            # At most total/share groups are full, so this loop is short.
            for group, queue in self._waiting[prompt].items():
                if self._running[group] < self._share:
                    return next(iter(queue.items()))
        return None


def group_of(host: str) -> str:
    """Return the group of a host: the last two labels of a name, or the address."""
    name, _, port = host.partition(":")
    if port:
        # A host with a port is a group of its own.
        return host
    try:
        ip_address(name)
    except ValueError:
        return ".".join(name.rsplit(".", 2)[-2:])
    return name
