"""Requests that nobody should send, and what they get.

Most are about one thing: where a request ends. Two readers that disagree about that, a proxy
and a server behind it, let one client's bytes become another's request.
"""

from __future__ import annotations

from tests.http import hostile_bodies, hostile_ends, hostile_heads

ROWS = [*hostile_heads.ROWS, *hostile_bodies.ROWS, *hostile_ends.ROWS]
