"""HTTP client for the unmeasured parts of a benchmark: create streams, get tails, catch up."""

from __future__ import annotations

import http.client
import json
from dataclasses import dataclass

BYTES = "application/octet-stream"
TEXT = "text/plain"
# Root of the streams on every server.
ROOT = "/v1/stream/"
ANSWER_SECONDS = 60.0
PIECE = 1 << 20


class Mismatch(Exception):
    """A server sent a wrong response, or lost or duplicated an append."""


@dataclass(frozen=True)
class CatchUp:
    """Bytes and requests of one catch-up read."""

    size: int
    requests: int


class Client:
    """Connection to a server on the loopback interface."""

    def __init__(self, port: int) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=ANSWER_SECONDS)
        self._buffer = bytearray(PIECE)

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def create(self, name: str, content_type: str = BYTES) -> None:
        """Create a stream. Raise `Mismatch` unless the status is 201."""
        self._send("PUT", ROOT + name, b"", content_type, {201})

    def append(self, name: str, body: bytes, content_type: str = BYTES) -> None:
        """Append once. Raise `Mismatch` unless the status is 200 or 204."""
        self._send("POST", ROOT + name, body, content_type, {200, 204})

    def subscribe(self, name: str, pattern: str, wake_stream: str) -> bool:
        """Create a pull-wake subscription; return False if the server has no subscriptions."""
        config = {"type": "pull-wake", "pattern": pattern, "wake_stream": wake_stream}
        target = f"{ROOT}__ds/subscriptions/{name}"
        fields = {"Content-Type": "application/json"}
        self._connection.request("PUT", target, json.dumps(config), fields)
        answer = self._connection.getresponse()
        answer.read()
        return answer.status == 201

    def exists(self, name: str) -> bool:
        """Return True if HEAD gets 200."""
        self._connection.request("HEAD", ROOT + name)
        answer = self._connection.getresponse()
        answer.read()
        return answer.status == 200

    def tail(self, name: str) -> int:
        """Return the position of a stream's tail, as its server counts. Raise `Mismatch`."""
        self._connection.request("HEAD", ROOT + name)
        answer = self._connection.getresponse()
        answer.read()
        offset = answer.getheader("Stream-Next-Offset")
        if answer.status != 200 or offset is None:
            raise Mismatch(f"HEAD got {answer.status} with offset {offset}")
        return int(offset.rpartition("_")[2])

    def catch_up(self, name: str) -> CatchUp:
        """Read a stream from its start to its tail. Raise `Mismatch`."""
        offset, size, requests = "-1", 0, 0
        while True:
            self._connection.request("GET", f"{ROOT}{name}?offset={offset}")
            answer = self._connection.getresponse()
            requests += 1
            if answer.status != 200:
                raise Mismatch(f"GET got {answer.status}")
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
            raise Mismatch(f"{method} got {answer.status}")


class AppendCounter:
    """Counter of the appends of one size in a stream, from the distance of two tails.

    Servers count positions differently (bytes only, or with framing per append), so the first two
    appends measure how far one moves the tail.
    """

    def __init__(self, client: Client, name: str, size: int) -> None:
        """Create the stream with two appends of ``size`` bytes. Raise `Mismatch`."""
        client.create(name)
        tails = [client.tail(name)]
        for _ in range(2):
            client.append(name, b"x" * size)
            tails.append(client.tail(name))
        self.step = tails[2] - tails[1]
        if self.step < size or self.step != tails[1] - tails[0]:
            raise Mismatch(f"two equal appends moved the tail differently: {tails}")

    def appends(self, before: int, after: int) -> int:
        """Return the number of appends between two tails. Raise `Mismatch`."""
        count, rest = divmod(after - before, self.step)
        if rest:
            raise Mismatch(f"{after - before} is no multiple of an append's {self.step}")
        return count


def check_count(there: int, acknowledged: int, under_way: int) -> None:
    """Check that acknowledged appends are present; those in flight at the end may be.

    Raises `Mismatch`.
    """
    if not acknowledged <= there <= acknowledged + under_way:
        raise Mismatch(f"{acknowledged} appends were acknowledged, {there} are there")
