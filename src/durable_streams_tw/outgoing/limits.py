"""Limits of host name lookups. Sizes are bytes and times are seconds."""

from __future__ import annotations

from typing import Final

#: Maximum number of lookups of one resolver in progress, each in its own thread.
RESOLVER_THREADS: Final = 16

#: Maximum number of threads that look up names of one domain.
RESOLVER_SHARE: Final = 3

#: Number of threads reserved for names that were resolved promptly last time.
RESOLVER_RESERVED: Final = 4

#: Maximum time of a lookup that counts as prompt.
RESOLVER_PROMPT: Final = 1.0

# Number of names in the cache of one resolver.
RESOLVER_REMEMBERED: Final = 4096

#: Time that resolved addresses are cached.
RESOLVER_CACHE: Final = 5.0

#: Maximum number of queued lookups; more are refused.
MAX_LOOKUPS: Final = 1024

#: Maximum time of the lookup of a webhook host.
RESOLVE_TIMEOUT: Final = 5.0
