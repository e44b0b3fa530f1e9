"""How many requests a client may make: a bucket of tokens for each, kept as one number.

The number is the time at which its bucket will be full again (the generic cell rate algorithm):
a bucket whose time has come is as good as none, and is forgotten.
"""

from __future__ import annotations

import re
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
    """So many requests in so many seconds, and as many at once."""

    count: int
    seconds: float


class RateLimiter:
    """The buckets of all clients of one server."""

    def __init__(self, rate: Rate) -> None:
        self._step = rate.seconds / rate.count
        self._depth = rate.seconds
        self._full_at: BoundedCache[str, float] = BoundedCache(RATE_CLIENTS)

    def __len__(self) -> int:
        return len(self._full_at)

    def take(self, client: str, now: float) -> float:
        """Count a request. 0 where it may be answered, otherwise the seconds to wait.

        What is refused is not counted.
        """
        full_at = max(self._full_at.get(client, now), now) + self._step
        late = full_at - self._depth - now
        # Fractions add up: a bucket that is full to the microsecond is full.
        if late > 1e-5:
            return late
        self._full_at.put(client, full_at)
        self._drop_full(now)
        return 0.0

    def _drop_full(self, now: float) -> None:
        """Drop up to two of the buckets used longest ago that are full again."""
        for _ in range(2):
            oldest, full_at = self._full_at.oldest()
            if full_at > now:
                return
            self._full_at.pop(oldest)


def client_of(host: str | None, forwarded: bytes | None) -> str:
    """What tells clients without a name apart: the address, of IPv6 the network of 64 bits.

    ``host`` is where the connection comes from; ``forwarded`` is X-Forwarded-For where a proxy is
    trusted. Of a list the last counts: the proxy has written it, all before it anybody may have.
    """
    if forwarded:
        last = forwarded.rpartition(b",")[2].strip().decode("latin-1")
        behind = _network(last)
        if behind is not None:
            return behind
    return "?" if host is None else _network(host) or host


@lru_cache(maxsize=4096)
def _network(text: str) -> str | None:
    """The network of an address, which some proxies write with a port; None for other text."""
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
