"""Limits that hold for all fronts together: connections, and request rates of clients.

Each front reports changes of its own use to the supervisor, which tells the others. So the limits
hold except for what happens within one period on several fronts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING

from durable_streams_tw.service.workers.messages import OtherUsage, OwnUsage

if TYPE_CHECKING:
    # The supervisor needs neither.
    from durable_streams_tw.auth.rate_limits import RateLimiter
    from durable_streams_tw.http.connection_limiter import ConnectionLimiter


class UsageReporter:
    """Use of the limits by this front.

    ``rates`` is None if there is no limit on rates. ``now`` is the clock of the rates.
    """

    def __init__(
        self,
        limiter: ConnectionLimiter,
        max_connections: int,
        rates: RateLimiter | None,
        now: Callable[[], float],
    ) -> None:
        self._limiter = limiter
        limiter.shared_limit = max_connections
        limiter.changed = set()
        self._rates = rates
        if rates is not None:
            rates.counted = Counter()
        self._now = now
        self._reported = 0

    def report(self) -> OwnUsage | None:
        """Return what has changed since the last report, None if nothing has."""
        limiter, changed = self._limiter, self._limiter.changed
        requests = self._rates.counted if self._rates is not None else None
        if limiter.count == self._reported and not changed and not requests:
            return None
        self._reported = limiter.count
        addresses = {host: limiter.count_of(host) for host in changed or ()}
        limiter.changed = set()
        if self._rates is not None:
            self._rates.counted = Counter()
        return OwnUsage(limiter.count, addresses, dict(requests or {}))

    def update(self, others: OtherUsage) -> None:
        """Take what has changed at the other fronts."""
        limiter = self._limiter
        limiter.elsewhere = others.connections
        for host, count in others.addresses.items():
            if count:
                limiter.elsewhere_by_address[host] = count
            else:
                limiter.elsewhere_by_address.pop(host, None)
        if self._rates is not None:
            for client, requests in others.requests.items():
                self._rates.charge(client, requests, self._now())


class UsageTotals:
    """Use of the limits by each front, in the supervisor."""

    def __init__(self) -> None:
        self._connections: Counter[str] = Counter()
        # Connections of each front by address.
        self._addresses: dict[str, Counter[str]] = {}

    def update(self, front: str, usage: OwnUsage) -> dict[str, OtherUsage]:
        """Record the report of a front, and return the messages for the others."""
        self._connections[front] = usage.connections
        own = self._addresses.setdefault(front, Counter())
        for host, count in usage.addresses.items():
            own[host] = count
            if not count:
                del own[host]
        return {
            other: self._others(other, usage.addresses, usage.requests)
            for other in self._addresses
            if other != front
        }

    def remove(self, front: str) -> dict[str, OtherUsage]:
        """Forget a front that may have ended, and return the messages for the others."""
        if front not in self._addresses:
            return {}
        del self._connections[front]
        gone = self._addresses.pop(front)
        return {other: self._others(other, gone, {}) for other in self._addresses}

    def add(self, front: str) -> OtherUsage:
        """Begin with a front, and return the first message for it."""
        self._addresses[front] = Counter()
        hosts: Counter[str] = sum(self._addresses.values(), Counter())
        return self._others(front, hosts, {})

    def _others(
        self, front: str, hosts: dict[str, int] | Counter[str], requests: dict[str, int]
    ) -> OtherUsage:
        others = [used for name, used in self._addresses.items() if name != front]
        addresses = {host: sum(used[host] for used in others) for host in hosts}
        total = self._connections.total() - self._connections[front]
        return OtherUsage(total, addresses, requests)
