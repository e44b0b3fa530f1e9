"""Limits of subscriptions. Sizes are bytes and times are seconds."""

from __future__ import annotations

from typing import Final

KIB: Final = 1024

#: Maximum number of concurrent webhook calls; further calls are queued.
MAX_DELIVERIES: Final = 512

#: Maximum number of concurrent calls to one domain, or to one host that was prompt last time.
DELIVERIES_SHARE: Final = 64

#: Number of concurrent calls reserved for hosts that were prompt last time.
DELIVERIES_RESERVED: Final = 128

# Number of prompt hosts remembered.
DELIVERIES_REMEMBERED: Final = 4096

#: Maximum response time of a webhook that counts as prompt.
DELIVERY_PROMPT: Final = 5.0

#: Number of subscriptions whose last error is remembered for operators.
ERRORS_REMEMBERED: Final = 1_000

#: Maximum time of a webhook call, unless the lease is shorter.
WEBHOOK_TIMEOUT: Final = 30.0

#: Time that a call may continue after its wake has ended, before the next call.
DELIVERY_GRACE: Final = 5.0

#: Maximum size of a webhook response.
MAX_WEBHOOK_RESPONSE: Final = 64 * KIB

# Pause before the retry of an action that the store refused, and between two checks for duties
# that other nodes have left.
DUTY_RETRY: Final = 1.0

# Pause before the retry of an action that was not due yet by the store's clock.
DUTY_EARLY: Final = 0.05

# Pause between two renewals of the subscriptions whose webhooks this node is calling.
DUTY_RENEWAL: Final = 5.0

#: Lifetime of a callback or claim token in seconds. Heartbeats in its second half renew it.
TOKEN_LIFETIME: Final = 3600

#: Time in seconds that a signing key is published before its first and after its last signature:
#: longer than JWKS caches and replay windows (300 s each).
KEY_OVERLAP: Final = 600

#: Pause between two checks for keys that another node has added. Shorter than the time that a key
#: is published before its first signature.
KEY_REFRESH: Final = 60.0
