"""Model test of connections that repeat requests: each is executed as on a connection of its own.

The HTTP/1.1 engine and the handlers keep what they derived from a head for the next request with an
equal one.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tests.http.authorization_case import AuthorizationCase
from tests.http.server_fixture import Answer, Client, parse

_TYPES = ("text/plain", "text/plain", "application/json")
_TOKENS = ("root", "other")
_HEADERS = (
    "Expect: 100-continue",
    "Stream-Closed: true",
    "Stream-Seq: 1",
    "Producer-Id: p\r\nProducer-Epoch: 0\r\nProducer-Seq: %d",
    "If-Match: *",
    'If-Match: "x"',
    "Content-Type: text/html",
    "Connection: close",
)
# Changes between two requests.
_EVENTS = ("", "revoke", "restore", "restrict", "expire", "pass time", "delete", "create JSON")


@dataclass(frozen=True)
class Sent:
    """Request without its body. ``closes`` is true if it ends its connection."""

    method: str
    path: str
    token: str
    content_type: str
    extra: str
    version: str

    @property
    def closes(self) -> bool:
        return self.version == "HTTP/1.0" or self.extra == "Connection: close"

    def encode(self, body: bytes, seq: int = 0, chunked: bool = False) -> tuple[bytes, bytes]:
        """Return head and encoded body of the request, with a number in some headers."""
        lines = [f"{self.method} /v1/stream/{self.path} {self.version}", "Host: streams.example"]
        lines += [f"Authorization: Bearer {self.token}", f"Content-Type: {self.content_type}"]
        if self.extra:
            lines.append(self.extra.replace("%d", str(seq)))
        if chunked and self.version == "HTTP/1.1":
            lines.append("Transfer-Encoding: chunked")
            body = (b"%x\r\n%b\r\n" % (len(body), body) if body else b"") + b"0\r\n\r\n"
        else:
            lines.append(f"Content-Length: {len(body)}")
        return "\r\n".join([*lines, "", ""]).encode(), body


@dataclass(frozen=True)
class Burst:
    """Requests that are sent together, in ``packets``, after an event."""

    event: str
    methods: tuple[str, ...]
    requests: tuple[bytes, ...]
    packets: tuple[bytes, ...]


@st.composite
def bursts(draw: st.DrawFn) -> list[Burst]:
    """Draw bursts of a few different requests."""
    pool = draw(
        st.lists(
            st.builds(
                Sent,
                st.sampled_from(("POST", "POST", "POST", "PUT", "GET", "HEAD", "DELETE")),
                st.sampled_from(("a", "a", "a", "b")),
                st.sampled_from(_TOKENS),
                st.sampled_from(_TYPES),
                st.sampled_from(("", "", *_HEADERS)),
                st.sampled_from(("HTTP/1.1", "HTTP/1.1", "HTTP/1.1", "HTTP/1.0")),
            ),
            min_size=1,
            max_size=3,
        )
    )
    found = []
    for _ in range(draw(st.integers(1, 6))):
        chosen = draw(st.lists(st.sampled_from(pool), min_size=1, max_size=3))
        last = next((n for n, one in enumerate(chosen) if one.closes), len(chosen))
        chosen = chosen[: last + 1]
        parts: list[bytes] = []
        for one in chosen:
            body, seq = draw(st.sampled_from((b"", b"1", b"2", b"34"))), draw(st.integers(0, 2))
            parts += one.encode(body, seq, draw(st.integers(0, 5)) == 0)
        data = b"".join(parts)
        # Most clients send whole requests, or head and body.
        ends = [sum(map(len, parts[:number])) for number in range(len(parts))]
        cuts = set(draw(st.sampled_from(([], ends[::2], ends))))
        cuts |= set(draw(st.lists(st.integers(0, len(data)), max_size=2)))
        places = sorted({0, *cuts, len(data)})
        packets = tuple(data[one:other] for one, other in pairwise(places))
        event = draw(st.sampled_from(_EVENTS))
        methods = tuple(one.method for one in chosen)
        requests = tuple(map(bytes.__add__, parts[::2], parts[1::2]))
        found.append(Burst(event, methods, requests, packets))
    return found


class Server(AuthorizationCase):
    """Server of one example."""

    def runTest(self) -> None:
        """Do nothing: the tests call the methods below."""

    def happen(self, event: str) -> None:
        """Change tokens, time or streams."""
        if event == "revoke":
            self.tokens.known.pop("other", None)
        elif event in ("restore", "restrict", "expire"):
            verbs = "read" if event == "restrict" else "read append create delete"
            self.give("other", ("", verbs), ends=500 if event == "expire" else None)
        elif event == "pass time":
            self.clock.advance(400)
        elif event:
            given = ("DELETE", "text/plain") if event == "delete" else ("PUT", "application/json")
            method, content_type = given
            head, _ = Sent(method, "a", "root", content_type, "", "HTTP/1.1").encode(b"")
            self.alone(head)

    def alone(self, request: bytes, method: str = "") -> list[Answer]:
        """Send a request on a connection of its own, and return the response."""
        client = self.connect()
        answers = self.exchange(client, (request,), method)
        client.leave()
        self.clients.remove(client)
        return answers

    def exchange(self, client: Client, packets: tuple[bytes, ...], *methods: str) -> list[Answer]:
        """Send packets and return the responses, without what belongs to the connection."""
        client.transport.clear()
        for packet in packets:
            if not client.transport.disconnecting:
                client.send(packet)
                self.clock.advance(0)
        answers = parse(client.transport.value(), methods)
        for one in answers:
            one.header.pop("connection", None)
        return answers


class RepeatedRequestTests(SynchronousTestCase):
    @given(bursts())
    def test_as_on_new_connections(self, drawn: list[Burst]) -> None:
        """A connection that repeats requests in any packets gets the responses of new
        connections, also when tokens, time and streams change between the requests.
        """
        one, many = Server(), Server()
        for server in (one, many):
            server.setUp()
            server.happen("restore")
            server.put("a")
        client = one.connect()
        transport: Any = client.transport
        for burst in drawn:
            one.happen(burst.event)
            many.happen(burst.event)
            found = one.exchange(client, burst.packets, *burst.methods)
            if not transport.disconnecting:
                self.assertEqual(len(found), len(burst.requests))
            expected = []
            # A request whose body had not arrived when it was refused closes the connection.
            sent = zip(burst.methods, burst.requests, strict=True)
            for method, request in list(sent)[: len(found)]:
                expected += many.alone(request, method)
            self.assertEqual(found, expected)
            if transport.disconnecting:
                client = one.connect()
                transport = client.transport
        for server in (one, many):
            server.tearDown()
