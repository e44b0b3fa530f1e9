"""Limits of subscriptions. Sizes are bytes and times are seconds."""

from __future__ import annotations

from typing import Final

KIB: Final = 1024

#: How many streams the description of a subscription lists.
MAX_LISTED_STREAMS: Final = 10_000

#: How many names are looked at for streams that its glob matches.
MAX_SCANNED_NAMES: Final = 100_000

#: How many webhook calls are under way at once; the others wait their turn.
MAX_DELIVERIES: Final = 512

#: How many of these may go to one domain, or to one host that answered promptly last time.
DELIVERIES_SHARE: Final = 64

#: How many of these are kept for hosts that answered promptly last time.
DELIVERIES_RESERVED: Final = 128

#: How many such hosts are remembered.
DELIVERIES_REMEMBERED: Final = 4096

#: How long the answer of a webhook may take to count as prompt (seconds).
DELIVERY_PROMPT: Final = 5.0

#: How long a webhook may take to answer, where the lease is not shorter.
WEBHOOK_TIMEOUT: Final = 30.0

#: How long a call whose wake is over may still go on before the next one is made.
DELIVERY_GRACE: Final = 5.0

#: How much of a webhook's answer is read.
MAX_WEBHOOK_RESPONSE: Final = 64 * KIB

#: After how long what the store could not do for a subscription is asked of it again.
DUTY_RETRY: Final = 1.0

#: The same where only the clocks did not agree that it was due.
DUTY_EARLY: Final = 0.05

#: How long a callback or claim token is valid. It is renewed by heartbeats in its second half.
TOKEN_LIFETIME: Final = 3600

#: A new signing key is published for so long before it signs, and an old one for so long after
#: its last signature: JWKS caches (300 s) and replay windows (five minutes) pass by.
KEY_OVERLAP: Final = 600
