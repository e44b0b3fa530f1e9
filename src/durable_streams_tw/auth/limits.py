"""Limits of authentication, authorization and rates.

Sizes are in bytes and times in seconds unless a name says otherwise.
"""

from __future__ import annotations

from typing import Final

from durable_streams_tw.protocol.limits import KIB, MIB

#: How many grants one client may have.
MAX_GRANTS: Final = 1_000

#: The longest token, in characters: a request's head has to hold it.
MAX_BEARER: Final = 8 * KIB

#: The largest file of tokens: some ten thousand of them.
MAX_TOKEN_FILE: Final = 4 * MIB

#: How often a file of tokens is looked at for changes, at most.
TOKEN_FILE_CHECK: Final = 2.0

#: The largest key set of an issuer, and how many of its keys are looked at.
MAX_KEY_SET: Final = 256 * KIB
MAX_KEYS: Final = 100

#: How long fetching one may take.
KEY_SET_TIMEOUT: Final = 10.0

#: After how long an issuer's keys are fetched again, while the old ones still serve.
KEY_SET_FRESH: Final = 600.0

#: For how long they serve where the issuer does not answer.
KEY_SET_STALE: Final = 24 * 3600.0

#: The least time between two fetches, whoever asks for keys that nobody knows.
KEY_SET_PAUSE: Final = 30.0

#: How many requests may wait for one fetch; the others are answered 503.
MAX_KEY_WAITERS: Final = 1_000

#: How far an issuer's clock may be off.
CLOCK_SKEW: Final = 30.0

#: How many tokens that were found good are remembered.
TOKEN_CACHE: Final = 16_384

#: How many clients' rates are remembered.
RATE_CLIENTS: Final = 100_000
