"""How rows of the table of hostile requests are written."""

from __future__ import annotations

from typing import Any

from tests.http.hostile import Row

HOST = b"Host: a\r\n"
LINE = b"POST /v1/stream/s HTTP/1.1\r\n"
GET = b"GET /v1/stream/s HTTP/1.1\r\n"
HIDDEN = b"GET /v1/stream/hidden HTTP/1.1\r\nHost: a\r\n\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n"


class Rows(list[Row]):
    """Rows, each added by what becomes of it. ``others`` are fields of `Row`."""

    def good(self, name: str, data: bytes, count: int = 1, **others: Any) -> None:
        """So many requests, each carried out, and the connection kept."""
        self._add(name, data, (200,) * count, count, kept=True, **others)

    def last(self, name: str, data: bytes, count: int = 1, **others: Any) -> None:
        """So many requests, the last of which ends the connection."""
        self._add(name, data, (200,) * count, count, **others)

    def bad(
        self, name: str, data: bytes, status: int = 400, before: int = 0, **others: Any
    ) -> None:
        """Refused, behind ``before`` requests that are carried out; the connection ends."""
        self._add(name, data, (200,) * before + (status,), before, **others)

    def refused(self, name: str, data: bytes, status: int = 400, **others: Any) -> None:
        """Refused, but it is certain where it ends: the connection is kept."""
        self._add(name, data, (status,), 0, kept=True, **others)

    def unfinished(self, name: str, data: bytes, before: int = 0, **others: Any) -> None:
        """``before`` requests, and one that is not complete."""
        self._add(name, data, (200,) * before, before, kept=True, open=True, **others)

    def _add(
        self, name: str, data: bytes, statuses: tuple[int, ...], executed: int, **others: Any
    ) -> None:
        self.append(Row(name=name, data=data, statuses=statuses, executed=executed, **others))


def get(*fields: bytes) -> bytes:
    """A GET with these fields."""
    return GET + HOST + b"".join([field + b"\r\n" for field in fields]) + b"\r\n"


def post(*fields: bytes, body: bytes = b"") -> bytes:
    """A POST with these fields and bytes behind them."""
    return LINE + HOST + b"".join([field + b"\r\n" for field in fields]) + b"\r\n" + body


def sized(body: bytes = b"hello") -> bytes:
    """A POST with a body of a known length."""
    return post(b"Content-Length: %d" % len(body), body=body)


def chunked(body: bytes, *fields: bytes) -> bytes:
    """A POST with these bytes where chunks belong."""
    return post(b"Transfer-Encoding: chunked", *fields, body=body)


def shown(data: bytes) -> str:
    """Bytes in a row's name."""
    return ascii(data)[2:-1]
