"""Model of a store: the rules of PROTOCOL.md in the simplest form."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

Producer = tuple[str, int, int]


@dataclass
class Stream:
    """Stream; ``content`` has messages in JSON mode, bytes otherwise."""

    number: int
    json: bool
    ttl: int | None
    touched: int
    closed: bool
    content: list[bytes]
    closed_by: Producer | None = None
    last_seq: bytes | None = None
    producers: dict[str, tuple[int, int]] = field(default_factory=dict)

    @property
    def stored(self) -> bytes:
        """Return the bytes as a store keeps them."""
        return b"".join([part + b"," if self.json else part for part in self.content])

    def positions(self) -> list[int]:
        """Return the positions from which the stream can be read."""
        if not self.json:
            return list(range(len(self.stored) + 1))
        found = [0]
        for part in self.content:
            found.append(found[-1] + len(part) + 1)
        return found


class Model:
    """Streams by path. Each request returns a status, and the stream if there is one."""

    def __init__(self) -> None:
        self.streams: dict[str, Stream] = {}
        self.made = 0

    def find(self, path: str, now: int) -> Stream | None:
        """Return the stream at a path unless it has expired."""
        stream = self.streams.get(path)
        if (
            stream is not None
            and stream.ttl is not None
            and now >= stream.touched + stream.ttl * 1000
        ):
            del self.streams[path]
            return None
        return stream

    def create(
        self, path: str, is_json: bool, raw: bytes, ttl: int | None, closed: bool, now: int
    ) -> int:
        """PUT."""
        stream = self.find(path, now)
        if stream is not None:
            same = (stream.json, stream.ttl, stream.closed) == (is_json, ttl, closed)
            return 200 if same else 409
        content = _content(raw, is_json) if raw else []
        if content is None:
            return 400
        self.made += 1
        self.streams[path] = Stream(self.made, is_json, ttl, now, closed, content)
        return 201

    def append(
        self,
        path: str,
        is_json: bool,
        raw: bytes,
        closed: bool,
        seq: bytes | None,
        producer: Producer | None,
        now: int,
    ) -> int:
        """POST."""
        stream = self.find(path, now)
        if stream is None:
            return 404
        epoch, last = (-1, -1) if producer is None else stream.producers.get(producer[0], (-1, -1))
        if producer is not None and producer[1] < epoch:
            return 403
        if stream.closed:
            if producer is None:
                return 204 if closed and not raw else 409
            return 204 if producer == stream.closed_by else 409
        if not raw and not closed:
            return 400
        if raw and stream.json != is_json:
            return 409
        if producer is not None:
            if producer[1] > epoch and producer[2] != 0:
                return 409 if epoch < 0 else 400
            if producer[1] == epoch and producer[2] <= last:
                return 204
            if producer[1] == epoch and producer[2] > last + 1:
                return 409
        if seq is not None and stream.last_seq is not None and seq <= stream.last_seq:
            return 409
        content = _content(raw, is_json) if raw else []
        if content is None or (raw and not content):
            return 400
        stream.content += content
        stream.touched = now
        stream.last_seq = stream.last_seq if seq is None else seq
        if producer is not None:
            stream.producers[producer[0]] = producer[1:]
        if closed:
            stream.closed = True
            stream.closed_by = producer
        return 200 if producer is not None and raw else 204

    def delete(self, path: str, now: int) -> int:
        """DELETE."""
        if self.find(path, now) is None:
            return 404
        del self.streams[path]
        return 204

    def read(self, path: str, now: int) -> Stream | None:
        """GET."""
        stream = self.find(path, now)
        if stream is not None:
            stream.touched = now
        return stream


def _content(raw: bytes, is_json: bool) -> list[bytes] | None:
    """Return messages or bytes, None for invalid JSON. Bodies of tests are compact JSON."""
    if not is_json:
        return [raw]
    try:
        value: Any = json.loads(raw)
    except ValueError:
        return None
    values = value if isinstance(value, list) else [value]
    return [json.dumps(one, separators=(",", ":")).encode() for one in values]
