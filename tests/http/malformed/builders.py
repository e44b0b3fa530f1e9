"""Builders of malformed and ambiguous requests."""

from __future__ import annotations

from typing import Any

from tests.http.malformed.servers import Row

HOST = b"Host: a\r\n"
LINE = b"POST /v1/stream/s HTTP/1.1\r\n"
GET = b"GET /v1/stream/s HTTP/1.1\r\n"
HIDDEN = b"GET /v1/stream/hidden HTTP/1.1\r\nHost: a\r\n\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n"


class Rows(list[Row]):
    """Rows, each added by its result. ``others`` are fields of `Row`."""

    def good(self, name: str, data: bytes, count: int = 1, **others: Any) -> None:
        """Add ``count`` requests that are executed; the connection stays open."""
        self._add(name, data, (200,) * count, count, kept=True, **others)

    def last(self, name: str, data: bytes, count: int = 1, **others: Any) -> None:
        """Add ``count`` requests that are executed; the last one closes the connection."""
        self._add(name, data, (200,) * count, count, **others)

    def bad(
        self, name: str, data: bytes, status: int = 400, before: int = 0, **others: Any
    ) -> None:
        """Add a refused request after ``before`` executed ones; the connection closes."""
        self._add(name, data, (200,) * before + (status,), before, **others)

    def refused(self, name: str, data: bytes, status: int = 400, **others: Any) -> None:
        """Add a refused request whose end is known: the connection stays open."""
        self._add(name, data, (status,), 0, kept=True, **others)

    def unfinished(self, name: str, data: bytes, before: int = 0, **others: Any) -> None:
        """Add ``before`` requests and an incomplete one."""
        self._add(name, data, (200,) * before, before, kept=True, open=True, **others)

    def _add(
        self, name: str, data: bytes, statuses: tuple[int, ...], executed: int, **others: Any
    ) -> None:
        self.append(Row(name=name, data=data, statuses=statuses, executed=executed, **others))


def get(*fields: bytes) -> bytes:
    """Return a GET with these headers."""
    return GET + HOST + b"".join([field + b"\r\n" for field in fields]) + b"\r\n"


def post(*fields: bytes, body: bytes = b"") -> bytes:
    """Return a POST with these headers and bytes after them."""
    return LINE + HOST + b"".join([field + b"\r\n" for field in fields]) + b"\r\n" + body


def sized(body: bytes = b"hello") -> bytes:
    """Return a POST with a Content-Length."""
    return post(b"Content-Length: %d" % len(body), body=body)


def chunked(body: bytes, *fields: bytes) -> bytes:
    """Return a chunked POST with these bytes as its body."""
    return post(b"Transfer-Encoding: chunked", *fields, body=body)


def printable(data: bytes) -> str:
    """Return bytes as text for a row's name."""
    return ascii(data)[2:-1]
