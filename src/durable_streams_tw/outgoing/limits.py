"""Limits of host name lookups. Sizes are bytes and times are seconds."""

from __future__ import annotations

from typing import Final

#: How many names one resolver looks up at once, in a thread each.
RESOLVER_THREADS: Final = 16

#: How many of these threads the names of one domain may occupy.
RESOLVER_SHARE: Final = 3

#: How many of these threads are kept for names that were found promptly last time.
RESOLVER_RESERVED: Final = 4

#: How long finding a name may take to count as prompt (seconds).
RESOLVER_PROMPT: Final = 1.0

#: How many names one resolver remembers.
RESOLVER_REMEMBERED: Final = 4096

#: How long the addresses of a name are used again (seconds).
RESOLVER_CACHE: Final = 5.0

#: How many names may wait to be looked up; more are refused.
MAX_LOOKUPS: Final = 1024

#: How long finding the addresses of a webhook's name may take (seconds).
RESOLVE_TIMEOUT: Final = 5.0
