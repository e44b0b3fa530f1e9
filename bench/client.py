"""A plain client for what is not measured: creating streams, looking at tails, reading whole."""

from __future__ import annotations

import http.client
import json
from dataclasses import dataclass
from types import TracebackType

BYTES = "application/octet-stream"
TEXT = "text/plain"
# Under this root every peer serves.
ROOT = "/v1/stream/"
ANSWER_SECONDS = 60.0
PIECE = 1 << 20


class Mismatch(Exception):
    """A server answered what it should not have, or lost or doubled something."""


@dataclass(frozen=True)
class CatchUp:
    """What reading a stream whole took: bytes and requests."""

    size: int
    requests: int


class Client:
    """One connection to a server on the loopback."""

    def __init__(self, port: int) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=ANSWER_SECONDS)
        self._buffer = bytearray(PIECE)

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._connection.close()

    def create(self, name: str, content_type: str = BYTES) -> None:
        """PUT: a new stream. Raises `Mismatch` unless it is answered 201."""
        self._send("PUT", ROOT + name, b"", content_type, {201})

    def append(self, name: str, body: bytes, content_type: str = BYTES) -> None:
        """POST: one append. Raises `Mismatch` unless it is answered 200 or 204."""
        self._send("POST", ROOT + name, body, content_type, {200, 204})

    def subscribe(self, name: str, pattern: str, wake_stream: str) -> bool:
        """PUT: a pull-wake subscription. Returns whether the server has such a thing."""
        config = {"type": "pull-wake", "pattern": pattern, "wake_stream": wake_stream}
        target = f"{ROOT}__ds/subscriptions/{name}"
        fields = {"Content-Type": "application/json"}
        self._connection.request("PUT", target, json.dumps(config), fields)
        answer = self._connection.getresponse()
        answer.read()
        return answer.status == 201

    def exists(self, name: str) -> bool:
        """Whether HEAD is answered 200."""
        self._connection.request("HEAD", ROOT + name)
        answer = self._connection.getresponse()
        answer.read()
        return answer.status == 200

    def tail(self, name: str) -> int:
        """The position at a stream's end, as its server counts. Raises `Mismatch`."""
        self._connection.request("HEAD", ROOT + name)
        answer = self._connection.getresponse()
        answer.read()
        offset = answer.getheader("Stream-Next-Offset")
        if answer.status != 200 or offset is None:
            raise Mismatch(f"HEAD was answered {answer.status} with offset {offset}")
        return int(offset.rpartition("_")[2])

    def catch_up(self, name: str) -> CatchUp:
        """Reads a stream from its start to its tail. Raises `Mismatch`."""
        offset, size, requests = "-1", 0, 0
        while True:
            self._connection.request("GET", f"{ROOT}{name}?offset={offset}")
            answer = self._connection.getresponse()
            requests += 1
            if answer.status != 200:
                raise Mismatch(f"GET was answered {answer.status}")
            got = 0
            while read := answer.readinto(self._buffer):
                got += read
            size += got
            following = answer.getheader("Stream-Next-Offset")
            if answer.getheader("Stream-Up-To-Date") == "true":
                return CatchUp(size, requests)
            if following is None or following == offset or not got:
                raise Mismatch(f"reading makes no progress after {size} bytes, at {following}")
            offset = following

    def _send(
        self, method: str, target: str, body: bytes, content_type: str, accepted: set[int]
    ) -> None:
        self._connection.request(method, target, body, {"Content-Type": content_type})
        answer = self._connection.getresponse()
        answer.read()
        if answer.status not in accepted:
            raise Mismatch(f"{method} was answered {answer.status}")


class Ruler:
    """Counts the appends of one size that a stream has taken, by how far its tail has moved.

    Servers count positions differently (bytes alone, or with the frame around each append), so
    two appends show how far one moves the tail.
    """

    def __init__(self, client: Client, name: str, size: int) -> None:
        """Makes the stream, with two appends of ``size`` bytes. Raises `Mismatch`."""
        client.create(name)
        tails = [client.tail(name)]
        for _ in range(2):
            client.append(name, b"x" * size)
            tails.append(client.tail(name))
        self.step = tails[2] - tails[1]
        if self.step < size or self.step != tails[1] - tails[0]:
            raise Mismatch(f"two equal appends moved the tail differently: {tails}")

    def appends(self, before: int, after: int) -> int:
        """How many appends lie between two tails. Raises `Mismatch`."""
        count, rest = divmod(after - before, self.step)
        if rest:
            raise Mismatch(f"{after - before} is no multiple of an append's {self.step}")
        return count


def check_count(there: int, acknowledged: int, under_way: int) -> None:
    """Appends that were answered are there; of those cut off at the end each may be.

    Raises `Mismatch`.
    """
    if not acknowledged <= there <= acknowledged + under_way:
        raise Mismatch(f"{acknowledged} appends were acknowledged, {there} are there")
