"""Table of malformed and ambiguous requests, with the responses that they get.

Most rows are ambiguous about the end of a request. If a proxy and the server behind it read the end
at different places, bytes of one client are executed as a request of another (request smuggling).
"""

from __future__ import annotations

from tests.http.malformed import bodies, connections, heads

ROWS = [*heads.ROWS, *bodies.ROWS, *connections.ROWS]
