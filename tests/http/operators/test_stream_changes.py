"""Tests of `durable_streams_tw.http.operators.stream_changes`."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlencode

from durable_streams_tw.http.limits import MAX_WATCHED, MISSING_TIMEOUT, WATCH_TIMEOUT
from tests.http.operators.operator_case import OperatorCase, parsed
from tests.http.server_fixture import ROOT, Client


class StreamChangesTests(OperatorCase):
    """Requests to ``/-/changes``."""

    def watch(self, *watched: tuple[str, str]) -> Client:
        """Request the changes of streams, given the version seen of each."""
        client = Client(self.site)
        pairs = [pair for path, seen in watched for pair in (("stream", path), ("seen", seen))]
        client.request("GET", "/-/changes?" + urlencode(pairs))
        self.addCleanup(client.leave)
        return client

    def streams_in(self, client: Client) -> list[dict[str, Any] | None]:
        """Return the states in the only response."""
        self.clock.advance(0)
        (answer,) = client.answers()
        states: list[dict[str, Any] | None] = parsed(answer)["streams"]
        return states

    def version(self, path: str) -> str:
        """Return the version of a stream that exists."""
        (state,) = self.streams_in(self.watch((path, "")))
        assert state is not None
        text: str = state["version"]
        return text

    def waits(self, client: Client) -> bool:
        """Return whether there is no response yet."""
        self.clock.advance(0)
        return client.answers() == []

    def test_at_once(self) -> None:
        """A stream that is not as the client has seen it gets a response at once."""
        self.put("a")
        (state,) = self.streams_in(self.watch(("a", "")))
        assert state is not None
        self.assertEqual((state["path"], state["size"]), ("a", 0))
        (state,) = self.streams_in(self.watch(("b", "x")))
        self.assertIsNone(state)

    def test_append(self) -> None:
        """An append to one of several streams sends the states of all."""
        self.put("a")
        self.put("b")
        client = self.watch(("a", self.version("a")), ("b", self.version("b")))
        self.assertTrue(self.waits(client))
        self.put("c")
        self.assertTrue(self.waits(client))
        self.append("b", b"xyz")
        self.append("b", b"z")
        first, second = self.streams_in(client)
        assert first is not None and second is not None
        self.assertEqual((first["size"], second["size"]), (0, 4))

    def test_other_changes(self) -> None:
        """A stream that is created, closed or deleted sends a response."""
        client = self.watch(("a", ""))
        self.assertTrue(self.waits(client))
        self.put("a")
        self.assertIsNotNone(self.streams_in(client)[0])
        client = self.watch(("a", self.version("a")))
        self.ask("POST", ROOT + "a", Stream_Closed="true")
        (state,) = self.streams_in(client)
        assert state is not None
        self.assertTrue(state["closed"])
        client = self.watch(("a", self.version("a")))
        self.ask("DELETE", ROOT + "a")
        self.assertEqual(self.streams_in(client), [None])

    def test_timeout(self) -> None:
        """Without a change the response comes after a time, sooner if a stream is missing."""
        self.put("a")
        for path, timeout in (("a", WATCH_TIMEOUT), ("b", MISSING_TIMEOUT)):
            client = self.watch((path, self.version(path) if path == "a" else ""))
            self.clock.advance(timeout - 1)
            self.assertTrue(self.waits(client))
            self.clock.advance(1)
            self.assertEqual(len(self.streams_in(client)), 1)

    def test_pins(self) -> None:
        """Watched streams are pinned, for stores that report the changes of those only."""
        self.put("a")
        pinned: list[int] = []
        self.patch(self.store, "pin", pinned.append)
        self.patch(self.store, "unpin", pinned.remove)
        client = self.watch(("a", self.version("a")), ("b", ""))
        self.assertEqual(len(pinned), 1)
        self.append("a", b"x")
        self.assertEqual(len(self.streams_in(client)), 2)
        self.assertEqual(pinned, [])

    def test_ttl(self) -> None:
        """A watched stream does not expire by its TTL."""
        self.put("a", Stream_TTL="10")
        for _ in range(2):
            client = self.watch(("a", self.version("a")))
            self.clock.advance(WATCH_TIMEOUT)
            self.assertIsNotNone(self.streams_in(client)[0])

    def test_disconnect(self) -> None:
        """A client that disconnects leaves no timer."""
        before = len(self.clock.getDelayedCalls())
        client = self.watch(("a", ""))
        self.assertGreater(len(self.clock.getDelayedCalls()), before)
        client.leave()
        self.assertEqual(len(self.clock.getDelayedCalls()), before)
        self.put("a")
        self.clock.advance(0)

    def test_stop(self) -> None:
        """A stopping server sends the responses, and later ones without waiting."""
        client = self.watch(("a", ""), ("b", ""))
        self.streams.release()
        self.assertEqual(self.streams_in(client), [None, None])
        self.assertEqual(self.streams_in(self.watch(("a", ""))), [None])

    def test_refused(self) -> None:
        """Requests without streams, with too many, or with another number of versions get 400."""
        many = "&".join(["stream=a&seen="] * (MAX_WATCHED + 1))
        for query in ("", "stream=a", "stream=a&seen=&seen=", many):
            self.assertEqual(self.ask("GET", f"/-/changes?{query}").status, 400, query)
