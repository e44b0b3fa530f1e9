"""Writers with producers and live readers at one or more ports, and a check of their results.

Writers repeat a request without a usable answer, with the same sequence number, at the next port.
Readers resume at the last offset.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Sequence
from http.client import HTTPConnection, HTTPException, HTTPResponse
from urllib.parse import urlencode

from tests.service.black_box import ROOT
from tests.sse_parser import Parser

PAUSE = 0.02
# Time in which a server answers, or a live reader receives at least a comment.
SOCKET_TIMEOUT = 20.0
# Time in which everything ends once the writers have stopped.
END_SECONDS = 60.0


class _Client(threading.Thread):
    """Thread with a connection to one of several ports."""

    def __init__(self, ports: Sequence[int], first: int) -> None:
        super().__init__(daemon=True)
        self._ports = ports
        self._turn = first
        self._connection: HTTPConnection | None = None
        #: Requests without a usable answer.
        self.failures = 0
        #: Answer that the protocol does not allow here; ends the thread.
        self.fault: str | None = None

    @property
    def port(self) -> int:
        """Return the port of the next request."""
        return self._ports[self._turn % len(self._ports)]

    def open(
        self, method: str, target: str, body: bytes | None = None, **headers: str
    ) -> HTTPResponse | None:
        """Return the response; None, and go on to the next port, if there is none or it is 5xx."""
        if self._connection is None:
            self._connection = HTTPConnection("127.0.0.1", self.port, timeout=SOCKET_TIMEOUT)
        fields = {name.replace("_", "-"): value for name, value in headers.items()}
        try:
            self._connection.request(method, ROOT + target, body, fields)
            response = self._connection.getresponse()
        except (OSError, HTTPException):
            self._fail()
            return None
        if response.status >= 500:
            self._fail()
            return None
        return response

    def ask(
        self, method: str, target: str, body: bytes | None = None, **headers: str
    ) -> tuple[HTTPResponse, bytes] | None:
        """Return the response and its body; otherwise like `open`."""
        response = self.open(method, target, body, **headers)
        if response is None:
            return None
        try:
            return response, response.read()
        except (OSError, HTTPException):
            self._fail()
            return None

    def close(self) -> None:
        """Close the connection."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _fail(self) -> None:
        self.failures += 1
        self.close()
        self._turn += 1
        time.sleep(PAUSE)


class Writer(_Client):
    """Producer of numbered messages, one at a time, until it is stopped."""

    def __init__(self, ports: Sequence[int], first: int, path: str, name: str) -> None:
        super().__init__(ports, first)
        self.path, self.name = path, name
        self.stopping = threading.Event()
        #: Messages that were acknowledged.
        self.acknowledged = 0
        #: Acknowledgements that said that the message had been appended before.
        self.duplicates = 0
        #: Longest time between two acknowledgements (seconds).
        self.gap = 0.0

    def run(self) -> None:
        last = time.monotonic()
        while not self.stopping.is_set() and self.fault is None:
            self._append(self.acknowledged)
            now = time.monotonic()
            self.gap, last = max(self.gap, now - last), now

    def _append(self, number: int) -> None:
        body = f"{self.name}:{number};".encode()
        while True:
            answer = self.ask(
                *("POST", self.path, body),
                Content_Type="text/plain",
                Producer_Id=self.name,
                Producer_Epoch="0",
                Producer_Seq=str(number),
            )
            if answer is None:
                continue
            response, text = answer
            if response.status in (200, 204):
                self.acknowledged += 1
                self.duplicates += response.status == 204
            else:
                self.fault = f"{self.name} got {response.status} for {number}: {text!r}"
            return


class LongPollReader(_Client):
    """Reader of one stream by long-polls, until the stream is closed."""

    def __init__(self, port: int, path: str) -> None:
        super().__init__([port], 0)
        self.path = path
        self.received = b""
        self.offset = "-1"

    def run(self) -> None:
        closed = False
        while not closed and self.fault is None:
            query = urlencode({"offset": self.offset, "live": "long-poll"})
            answer = self.ask("GET", f"{self.path}?{query}")
            if answer is None:
                continue
            response, body = answer
            if response.status not in (200, 204):
                self.fault = f"reader of {self.path} got {response.status}: {body!r}"
                return
            self.received += body
            self.offset = response.headers["Stream-Next-Offset"]
            closed = response.headers.get("Stream-Closed") == "true"


class SSEReader(LongPollReader):
    """Reader of one stream by SSE, until the stream is closed."""

    def run(self) -> None:
        closed = False
        while not closed and self.fault is None:
            query = urlencode({"offset": self.offset, "live": "sse"})
            response = self.open("GET", f"{self.path}?{query}")
            if response is not None and response.status != 200:
                self.fault = f"reader of {self.path} got {response.status}"
            elif response is not None:
                closed = self._events(response)

    def _events(self, response: HTTPResponse) -> bool:
        """Read events until the connection ends; return whether the stream is closed."""
        parser = Parser()
        # Data counts once the control event after it has named its end.
        pending = b""
        try:
            while piece := response.read1(65536):
                for event in parser.feed(piece):
                    if event.type == "data":
                        pending += event.data.encode()
                        continue
                    control = json.loads(event.data)
                    self.received += pending
                    pending = b""
                    self.offset = control["streamNextOffset"]
                    if control.get("streamClosed"):
                        return True
        except (OSError, HTTPException):
            self._fail()
        self.close()
        return False


class Traffic:
    """Writers and readers of some streams: two writers each, and a reader of each kind."""

    def __init__(self, ports: Sequence[int], streams: int, prefix: str) -> None:
        self._ports = ports
        self.paths = [f"{prefix}/{number:02}" for number in range(streams)]
        self.writers = [
            Writer(ports, number + turn, path, f"w{number:02}{turn}")
            for number, path in enumerate(self.paths)
            for turn in (0, 1)
        ]
        self.readers = [LongPollReader(ports[0], path) for path in self.paths]
        self.readers += [SSEReader(ports[-1], path) for path in self.paths]

    def start(self) -> None:
        """Create the streams and start all clients."""
        for path in self.paths:
            response, body = _once(self._ports[0], "PUT", path)
            assert response.status in (200, 201), body
        for client in (*self.readers, *self.writers):
            client.start()

    def await_progress(self, messages: int, seconds: float = END_SECONDS) -> None:
        """Wait until every writer has this many more messages acknowledged."""
        wanted = [writer.acknowledged + messages for writer in self.writers]
        deadline = time.monotonic() + seconds
        for writer, number in zip(self.writers, wanted, strict=True):
            while writer.acknowledged < number:
                assert writer.fault is None, writer.fault
                assert time.monotonic() < deadline, f"{writer.name} is stuck at {number}"
                time.sleep(PAUSE)

    def check(self) -> list[str]:
        """Return everything that is wrong so far, while the clients go on."""
        wrong = [client.fault for client in (*self.writers, *self.readers) if client.fault]
        acknowledged = [writer.acknowledged for writer in self.writers]
        contents = {path: _once(self._ports[0], "GET", path)[1] for path in self.paths}
        for writer, least in zip(self.writers, acknowledged, strict=True):
            found = _messages(writer, contents[writer.path])
            if found != list(range(max(least, len(found)))):
                wrong.append(_difference(writer, found))
        deadline = time.monotonic() + END_SECONDS
        for reader in self.readers:
            content = contents[reader.path]
            while len(reader.received) < len(content) and time.monotonic() < deadline:
                time.sleep(PAUSE)
            if not reader.received.startswith(content):
                wrong.append(f"a reader of {reader.path} received other bytes than the stream has")
        return wrong

    def finish(self) -> list[str]:
        """Stop the writers, close the streams, and return everything that is wrong."""
        for writer in self.writers:
            writer.stopping.set()
        wrong = []
        deadline = time.monotonic() + END_SECONDS
        for writer in self.writers:
            writer.join(max(0.0, deadline - time.monotonic()))
            if writer.is_alive() or writer.fault is not None:
                wrong.append(writer.fault or f"{writer.name} does not end")
        for path in self.paths:
            status = _once(self._ports[0], "POST", path, Stream_Closed="true")[0].status
            if status != 204:
                wrong.append(f"{path} was not closed: {status}")
        contents = {}
        for path in self.paths:
            bodies = [_once(port, "GET", path)[1] for port in self._ports]
            contents[path] = bodies[0]
            if len(set(bodies)) != 1:
                wrong.append(f"{path} differs between nodes: {list(map(len, bodies))} bytes")
        for reader in self.readers:
            reader.join(max(0.0, deadline - time.monotonic()))
            if reader.is_alive() or reader.fault is not None:
                wrong.append(reader.fault or f"a reader of {reader.path} does not end")
            elif reader.received != contents[reader.path]:
                wrong.append(f"a reader of {reader.path} received other bytes than the stream has")
        for writer in self.writers:
            found = _messages(writer, contents[writer.path])
            if found != list(range(writer.acknowledged)):
                wrong.append(_difference(writer, found))
        return wrong

    def report(self) -> str:
        """Return the totals of all clients in one line."""
        writers = self.writers
        return (
            f"{sum(writer.acknowledged for writer in writers):,} messages of {len(writers)} "
            f"producers, {sum(writer.duplicates for writer in writers)} found to be duplicates, "
            f"{sum(writer.failures for writer in writers)} requests repeated, "
            f"longest pause {max(writer.gap for writer in writers):.2f} s"
        )


def _messages(writer: Writer, content: bytes) -> list[int]:
    """Return the numbers of a writer's messages in a stream."""
    messages = content.decode().split(";")[:-1]
    return [
        int(message.partition(":")[2]) for message in messages if message.startswith(writer.name)
    ]


def _difference(writer: Writer, found: list[int]) -> str:
    """Return how a stream differs from the messages that were acknowledged to a writer."""
    lost = sorted(set(range(writer.acknowledged)) - set(found))
    return (
        f"{writer.path} has {len(found)} messages of {writer.name}, acknowledged were "
        f"{writer.acknowledged}; lost: {lost[:5]}, in order: {found == sorted(set(found))}"
    )


def _once(port: int, method: str, path: str, **headers: str) -> tuple[HTTPResponse, bytes]:
    """Send a request until there is a usable answer, and return it with its body."""
    client = _Client([port], 0)
    deadline = time.monotonic() + END_SECONDS
    while (answer := client.ask(method, path, None, Content_Type="text/plain", **headers)) is None:
        assert time.monotonic() < deadline, f"no answer to {method} {path}"
    client.close()
    return answer
