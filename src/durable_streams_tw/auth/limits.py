"""Limits of authentication, authorization and rate limits.

Sizes are in bytes and times in seconds unless a name says otherwise.
"""

from __future__ import annotations

from typing import Final

from durable_streams_tw.protocol.limits import KIB, MIB

#: Largest number of grants of one client.
MAX_GRANTS: Final = 1_000

#: Longest token, in characters. A request's head has to hold it.
MAX_BEARER: Final = 8 * KIB

#: Largest token file: some ten thousand tokens.
MAX_TOKEN_FILE: Final = 4 * MIB

#: Least time between two checks of a token file for changes.
TOKEN_FILE_CHECK: Final = 2.0

#: Largest JWKS of an issuer, and largest number of keys in it.
MAX_KEY_SET: Final = 256 * KIB
MAX_KEYS: Final = 100

#: Timeout of a JWKS fetch.
KEY_SET_TIMEOUT: Final = 10.0

#: Age after which a JWKS is fetched again. The known keys stay valid meanwhile.
KEY_SET_FRESH: Final = 600.0

#: Age up to which known keys stay valid if the issuer does not respond.
KEY_SET_STALE: Final = 24 * 3600.0

#: Least time between two fetches, however many tokens name unknown keys.
KEY_SET_PAUSE: Final = 30.0

#: Largest number of requests that wait for one fetch; others are refused with 503.
MAX_KEY_WAITERS: Final = 1_000

#: Tolerated error of an issuer's clock.
CLOCK_SKEW: Final = 30.0

# Number of verified tokens in the cache.
TOKEN_CACHE: Final = 16_384

#: Number of clients whose rate limits are tracked.
RATE_CLIENTS: Final = 100_000
