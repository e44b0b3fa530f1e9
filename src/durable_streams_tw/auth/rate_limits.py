"""Rate limits per client: token buckets by the generic cell rate algorithm (GCRA).

A bucket is kept as one number, the time at which it will be full again. Full buckets are dropped.
"""

from __future__ import annotations

import re
from collections import Counter
from functools import lru_cache
from ipaddress import IPv6Address, ip_address, ip_network
from typing import Final

from msgspec import Struct

from durable_streams_tw.auth.limits import RATE_CLIENTS
from durable_streams_tw.datastructures.bounded_cache import BoundedCache

_ADDRESS: Final = re.compile(
    r"([0-9.]{1,15})(?::[0-9]{1,5})?|\[([0-9A-Fa-f:.]{1,45})\](?::[0-9]{1,5})?"
    r"|([0-9A-Fa-f:.]{1,45})(?:%.{1,32})?"
)


class Rate(Struct, frozen=True):
    """Rate of ``count`` requests in ``seconds`` seconds, with bursts of ``count``."""

    count: int
    seconds: float


class RateLimiter:
    """Token buckets of all clients of one server, at most `RATE_CLIENTS`.

    Several processes may share them: each charges the requests that the others have counted.
    """

    def __init__(self, rate: Rate) -> None:
        self._step = rate.seconds / rate.count
        self._depth = rate.seconds
        self._full_at: BoundedCache[str, float] = BoundedCache(RATE_CLIENTS)
        #: Numbers of requests by client, for other processes; None if there are none.
        self.counted: Counter[str] | None = None

    def __len__(self) -> int:
        return len(self._full_at)

    def take(self, client: str, now: float) -> float:
        """Count a request and return 0, or return the seconds to wait if it exceeds the rate.

        A refused request is not counted.
        """
        full_at = max(self._full_at.get(client, now), now) + self._step
        late = full_at - self._depth - now
        # Tolerate rounding errors, which add up: a client that waited is refused otherwise.
        if late > 1e-5:
            return late
        self._full_at.put(client, full_at)
        if self.counted is not None:
            self.counted[client] += 1
        self._drop_full(now)
        return 0.0

    def charge(self, client: str, requests: int, now: float) -> None:
        """Count requests that another process has accepted; the bucket is empty at worst."""
        full_at = max(self._full_at.get(client, now), now) + requests * self._step
        self._full_at.put(client, min(full_at, now + self._depth))

    def _drop_full(self, now: float) -> None:
        """Drop up to two full buckets, least recently used first."""
        for _ in range(2):
            oldest, full_at = self._full_at.oldest()
            if full_at > now:
                return
            self._full_at.pop(oldest)


def client_address(host: str | None, forwarded: bytes | None) -> str:
    """Return the key of a client without a token: its IPv4 address or its IPv6 /64 network.

    ``host`` is the peer's address; ``forwarded`` is X-Forwarded-For, None unless a proxy is
    trusted. The last entry of the list counts: the proxy has written it, and any client may have
    written those before it.
    """
    if forwarded:
        last = forwarded.rpartition(b",")[2].strip().decode("latin-1")
        client = _network(last)
        if client is not None:
            return client
    return "?" if host is None else _network(host) or host


@lru_cache(maxsize=4096)
def _network(text: str) -> str | None:
    """Return the network of an address, with or without a port; None for other text."""
    match = _ADDRESS.fullmatch(text)
    if match is None:
        return None
    try:
        address = ip_address(match[1] or match[2] or match[3])
    except ValueError:
        return None
    if isinstance(address, IPv6Address):
        if address.ipv4_mapped is not None:
            return str(address.ipv4_mapped)
        return str(ip_network((int(address), 64), strict=False))
    return str(address)
