"""Limits of listening ports. Sizes are bytes and times are seconds."""

from __future__ import annotations

from typing import Final

KIB: Final = 1024

#: Backlog of listening sockets; the system may allow less (net.core.somaxconn). The
#: ``backlog=`` of an endpoint overrides it.
ACCEPT_BACKLOG: Final = 4096

#: Maximum time to receive the PROXY header at a ``haproxy:`` endpoint.
PROXY_HEADER_TIMEOUT: Final = 5.0

#: Maximum of unsent bytes in the kernel per connection (TCP_NOTSENT_LOWAT). Without it the kernel
#: buffers up to net.ipv4.tcp_wmem (4 MiB) for each client that does not read.
UNSENT_IN_KERNEL: Final = 256 * KIB
