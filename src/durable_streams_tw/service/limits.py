"""Limits of listening ports. Sizes are bytes and times are seconds."""

from __future__ import annotations

from typing import Final

KIB: Final = 1024

#: How many connections may wait to be taken; the system may allow fewer (net.core.somaxconn).
#: An endpoint's own ``backlog=`` counts before it.
ACCEPT_BACKLOG: Final = 4096

#: How long a PROXY header may take to come, at a ``haproxy:`` endpoint (seconds).
PROXY_HEADER_TIMEOUT: Final = 5.0

#: How much of an answer the kernel takes before the client does (TCP_NOTSENT_LOWAT); without it as
#: much as net.ipv4.tcp_wmem allows, 4 MiB, for each client that does not read.
UNSENT_IN_KERNEL: Final = 256 * KIB
