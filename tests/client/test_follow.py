"""A follower gets every byte once, in order, whatever becomes of its connections."""

from __future__ import annotations

import json
from typing import Any
from unittest.mock import patch

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from durable_streams_tw.client import BadResponse, Batch, Rejected, Unreachable, messages
from durable_streams_tw.client.follow import Live
from durable_streams_tw.http.settings import Settings
from tests.client.client_fixture import ClientFixture, Script, answer

WHOLE = Settings(long_poll_timeout=2.0, sse_reconnect_interval=3.0)
SMALL = Settings(max_chunk=64, long_poll_timeout=2.0, sse_reconnect_interval=3.0)


async def gather(fixture: ClientFixture, into: list[Batch], name: str = "s", **how: Any) -> None:
    async for batch in fixture.stream(name).follow(**how):
        into.append(batch)


def content(batches: list[Batch]) -> bytes:
    return b"".join(batch.data for batch in batches)


def event(kind: str, *lines: str) -> bytes:
    return "".join([f"event: {kind}\n", *(f"data: {line}\n" for line in lines), "\n"]).encode()


class FollowTests(SynchronousTestCase):
    """Followers of streams of the real server."""

    def followed(
        self,
        content_type: str,
        live: Live,
        parts: list[bytes],
        cuts: list[int | None],
        settings: Settings = SMALL,
    ) -> list[Batch]:
        """Return the data of a follower of parts that are appended while it follows."""
        fixture = ClientFixture(cuts=list(cuts), settings=settings)
        fixture.fixture.put("s", content_type)
        half = len(parts) // 2
        for part in parts[:half]:
            fixture.fixture.post("s", part, content_type)
        seen: list[Batch] = []
        done = fixture.start(gather(fixture, seen, live=live))
        for part in parts[half:]:
            fixture.turn(0.4)
            fixture.fixture.post("s", part, content_type)
        fixture.turn(0.4)
        fixture.fixture.ask("POST", "s", {"Stream-Closed": "true"})
        fixture.finish(done)
        self.assertTrue(seen[-1].closed)
        return seen

    @given(
        st.sampled_from(["sse", "long-poll", "auto"]),
        st.lists(st.binary(min_size=1, max_size=90), max_size=8),
        st.lists(st.integers(0, 900), max_size=12),
    )
    def test_binary(self, live: Live, parts: list[bytes], cuts: list[int]) -> None:
        seen = self.followed("application/octet-stream", live, parts, [*cuts])
        self.assertEqual(content(seen), b"".join(parts))

    @given(
        st.lists(st.text("aß\r\n €", min_size=1, max_size=30), max_size=8),
        st.lists(st.integers(0, 900), max_size=12),
    )
    def test_text(self, parts: list[str], cuts: list[int]) -> None:
        """Text arrives unchanged, with the carriage returns that SSE cannot carry."""
        raw = [part.encode() for part in parts]
        seen = self.followed("text/plain; charset=utf-8", "auto", raw, [*cuts])
        self.assertEqual(content(seen), b"".join(raw))

    @given(
        st.sampled_from(["sse", "long-poll"]),
        st.lists(st.sampled_from([b"1.0", b'{"a": "\\ud83d"}', b"[[1,2],3]", b'"x"'])),
        st.lists(st.integers(0, 900), max_size=12),
    )
    def test_json(self, live: Live, parts: list[bytes], cuts: list[int]) -> None:
        seen = self.followed("application/json", live, parts, [*cuts])
        sent = [b"1.0", b'{"a": "\\ud83d"}', b"[1,2]", b"3", b'"x"']
        flat = {b"[[1,2],3]": [b"[1,2]", b"3"]}
        expected = [message for part in parts for message in flat.get(part, [part])]
        self.assertLessEqual({*expected}, {*sent})
        self.assertEqual([m for batch in seen for m in batch.messages()], expected)

    @given(
        st.sampled_from(["sse", "long-poll"]),
        st.lists(st.text("aß€", min_size=1, max_size=90), max_size=8),
        st.lists(st.integers(0, 1500), max_size=12),
    )
    def test_long_answers(self, live: Live, parts: list[str], cuts: list[int]) -> None:
        """A long response is yielded in pieces, none of them twice."""
        with patch.object(messages, "PIECE", 20):
            raw = [part.encode() for part in parts]
            for kind in ("application/octet-stream", "text/plain"):
                mode: Live = "long-poll" if kind == "text/plain" else live
                seen = self.followed(kind, mode, raw, [*cuts], WHOLE)
                self.assertEqual(content(seen), b"".join(raw))
                if kind == "text/plain":
                    self.assertEqual("".join(batch.data.decode() for batch in seen), "".join(parts))
            sent = [json.dumps({"text": [part, {"a": "],"}]}).encode() for part in parts]
            seen = self.followed("application/json", live, sent, [*cuts], WHOLE)
            self.assertEqual([m for batch in seen for m in batch.messages()], sent)

    def test_remaining(self) -> None:
        """Each batch has the number of bytes of its response that have not arrived."""
        fixture = ClientFixture(cuts=[400_000], settings=WHOLE)
        fixture.fixture.put("s", "text/plain", b"1" * 600_000)

        async def read() -> list[Batch]:
            return [batch async for batch in fixture.stream("s").read()]

        batches = fixture.finish(fixture.start(read()))
        self.assertEqual(len(content(batches)), 600_000)
        remaining = [batch.remaining or 0 for batch in batches]
        self.assertIn(remaining[0], range(200_000, 250_000))
        self.assertEqual(remaining[-1], 0)

    def test_another_stream_midway(self) -> None:
        """A cut response is not continued with another stream of the same URL."""
        fixture = ClientFixture(cuts=[400_000], settings=WHOLE)
        seen: list[Batch] = []
        with patch.object(messages, "PIECE", 20):
            fixture.fixture.put("s", "text/plain", b"1" * 600_000)
            done = fixture.start(gather(fixture, seen))
            fixture.turn()
            self.assertGreater(len(content(seen)), 0)
            self.assertIsNone(seen[-1].offset)
            fixture.fixture.ask("DELETE", "s")
            fixture.fixture.put("s", "text/plain", b"2" * 600_000)
            self.assertRaises(BadResponse, fixture.finish, done)
        self.assertNotIn(b"2", content(seen))

    def test_offsets_resume(self) -> None:
        """A read from any yielded offset continues without gap or overlap."""
        parts = [bytes([number]) * 50 for number in range(6)]
        seen = self.followed("application/octet-stream", "sse", parts, [])
        self.assertGreater(len(seen), 3)
        fixture = ClientFixture(settings=SMALL)
        fixture.fixture.put("s", "application/octet-stream")
        fixture.fixture.post("s", b"".join(parts), "application/octet-stream")
        fixture.fixture.ask("POST", "s", {"Stream-Closed": "true"})
        for number, batch in enumerate(seen):
            rest: list[Batch] = []
            fixture.run(gather(fixture, rest, offset=batch.offset))
            self.assertEqual(content(seen[: number + 1]) + content(rest), b"".join(parts))

    def test_a_token_that_was_renewed(self) -> None:
        """A live request with an expired token is repeated with the renewed one."""
        fields = {"Stream_Next_Offset": "a", "Content_Type": "text/plain"}
        caught_up = answer("200 OK", b"x", Stream_Up_To_Date="true", **fields)
        event_stream = answer(
            "200 OK",
            event("data", "y")
            + event("control", '{"streamNextOffset": "b", "streamClosed": true}'),
            Content_Type="text/event-stream",
        )
        poll = answer("200 OK", b"y", Stream_Closed="true", **fields)
        modes: tuple[tuple[Live, bytes], ...] = (("sse", event_stream), ("long-poll", poll))
        for live, last in modes:
            script = Script(caught_up, answer("401 Unauthorized"), last)
            fixture = ClientFixture(script, tokens=["old", "old", "new"])
            seen: list[Batch] = []
            fixture.run(gather(fixture, seen, live=live))
            self.assertEqual(content(seen), b"xy")
            self.assertIn(b"Bearer new", script.requests[-1])
            self.assertEqual(fixture.notices, [])
            script = Script(caught_up, answer("401 Unauthorized"))
            fixture = ClientFixture(script, tokens=["old"])
            self.assertRaises(Rejected, fixture.run, gather(fixture, [], live=live))

    def test_now(self) -> None:
        """A follower from `now` skips existing data and has an offset at once."""
        fixture = ClientFixture()
        fixture.fixture.put("s", "text/plain", b"old")
        seen: list[Batch] = []
        done = fixture.start(gather(fixture, seen, offset="now"))
        fixture.turn(1)
        self.assertEqual([(batch.data, str(batch.offset)[-1]) for batch in seen], [(b"", "3")])
        fixture.fixture.post("s", b"new")
        fixture.fixture.ask("POST", "s", {"Stream-Closed": "true"})
        fixture.finish(done)
        self.assertEqual(content(seen), b"new")

    def test_an_event_is_handed_out_at_once(self) -> None:
        """An event is yielded when it arrives, before the next one or the end."""
        fixture = ClientFixture()
        fixture.fixture.put("s", "application/octet-stream")
        seen: list[Batch] = []
        done = fixture.start(gather(fixture, seen))
        for number in range(3):
            fixture.turn()
            fixture.fixture.post("s", b"%d" % number, "application/octet-stream")
            fixture.turn()
            self.assertEqual(content(seen), b"012"[: number + 1])
        done.addErrback(lambda _: None)
        done.cancel()

    def test_a_server_that_is_away(self) -> None:
        """A server that is away is asked again with growing pauses, and reported once."""
        fixture = ClientFixture(endure=None)
        fixture.fixture.put("s", "application/octet-stream")
        seen: list[Batch] = []
        done = fixture.start(gather(fixture, seen))
        fixture.turn(1)
        fixture.network.down = True
        fixture.network.links[-1].cut()
        before = fixture.network.connects
        for _ in range(600):
            fixture.turn(1)
        self.assertTrue(60 <= fixture.network.connects - before <= 130, fixture.network.connects)
        self.assertEqual(len(fixture.notices), 1, fixture.notices)
        fixture.network.down = False
        fixture.fixture.post("s", b"back", "application/octet-stream")
        for _ in range(12):
            fixture.turn(1)
        self.assertEqual(content(seen), b"back")
        fixture.fixture.ask("POST", "s", {"Stream-Closed": "true"})
        fixture.finish(done)

    def test_a_server_that_stays_away(self) -> None:
        fixture = ClientFixture(endure=20)
        fixture.network.down = True
        before = fixture.clock.seconds()
        self.assertRaises(Unreachable, fixture.run, gather(fixture, []))
        self.assertLessEqual(fixture.clock.seconds() - before, 21)

    def test_a_deleted_stream(self) -> None:
        """A deleted stream ends the follower with the server's error, after its data."""
        for live in ("sse", "long-poll"):
            fixture = ClientFixture()
            fixture.fixture.put("s", "application/octet-stream", b"last words")
            seen: list[Batch] = []
            done = fixture.start(gather(fixture, seen, live=live))
            fixture.turn(1)
            fixture.fixture.ask("DELETE", "s")
            with self.assertRaises(Rejected) as caught:
                fixture.finish(done)
            self.assertEqual(caught.exception.status, 404)
            self.assertEqual(content(seen), b"last words")

    def test_a_silent_connection_is_given_up(self) -> None:
        """A connection that is silent for longer than a server may be is closed."""
        fixture = ClientFixture()
        fixture.fixture.put("s", "application/octet-stream")
        seen: list[Batch] = []
        done = fixture.start(gather(fixture, seen))
        fixture.turn(1)
        dead = fixture.network.links[-1]
        dead.carry = lambda: False  # type: ignore[method-assign]
        fixture.fixture.post("s", b"unheard", "application/octet-stream")
        fixture.turn(95)
        for _ in range(4):
            fixture.turn(1)
        self.assertEqual(content(seen), b"unheard")
        done.addErrback(lambda _: None)
        done.cancel()


class ScriptedTests(SynchronousTestCase):
    """Followers of scripted servers."""

    def run_script(self, *answers: bytes, **how: Any) -> tuple[list[Batch], list[bytes]]:
        script = Script(*answers)
        fixture = ClientFixture(script, endure=5)
        seen: list[Batch] = []
        try:
            fixture.run(gather(fixture, seen, **how))
        finally:
            self.seen = seen
        return seen, [request.split(b" ")[1] for request in script.requests]

    def tail(self, body: bytes = b"", content_type: str = "application/x") -> bytes:
        return answer(
            "200 OK",
            body,
            Content_Type=content_type,
            Stream_Next_Offset="a",
            Stream_Up_To_Date="true",
        )

    def test_data_without_their_control_event_are_dropped(self) -> None:
        """Data without the offset after them are requested again."""
        sse = {"Content_Type": "text/event-stream", "Stream_SSE_Data_Encoding": "base64"}
        control = event("control", '{"streamNextOffset":"b","streamCursor":"7"}')
        first = event("data", "AQ", "ID") + control + event("data", "BAUG")
        end = event("control", '{"streamNextOffset":"c","streamClosed":true}')
        seen, asked = self.run_script(
            self.tail(),
            answer("200 OK", first, **sse),
            answer("200 OK", event("data", "BAUG") + end, **sse),
        )
        self.assertEqual(content(seen), b"\x01\x02\x03\x04\x05\x06")
        self.assertEqual(
            asked,
            [
                b"/v1/stream/s?offset=-1",
                b"/v1/stream/s?live=sse&offset=a",
                b"/v1/stream/s?cursor=7&live=sse&offset=b",
            ],
        )

    def test_a_server_without_event_streams(self) -> None:
        """A server without SSE is long-polled with the cursor of its responses."""
        closed = {"Stream_Next_Offset": "b", "Stream_Closed": "true"}
        waited = {"Stream_Next_Offset": "a", "Stream_Cursor": "9", "Stream_Up_To_Date": "true"}
        _, asked = self.run_script(
            self.tail(),
            answer("200 OK", b"plain", Content_Type="application/x"),
            answer("204 No Content", **waited),
            answer("204 No Content", **closed),
        )
        self.assertEqual(
            [target.partition(b"?")[2] for target in asked[2:]],
            [b"live=long-poll&offset=a", b"cursor=9&live=long-poll&offset=a"],
        )

    def test_a_body_that_ends_early_is_no_body(self) -> None:
        """A body that is cut is requested again, and none of it is yielded."""
        whole = self.tail(b"whole").replace(b"Up-To-Date", b"Closed")
        seen, asked = self.run_script(whole[:-2], whole)
        self.assertEqual((content(seen), len(asked)), (b"whole", 2))

    def test_a_body_without_length_is_not_believed(self) -> None:
        head = b"HTTP/1.0 200 OK\r\nStream-Next-Offset: a\r\nStream-Closed: true\r\n\r\nha"
        self.assertRaises(Unreachable, self.run_script, *[head] * 20)
        self.assertEqual(self.seen, [])

    def test_passing_failures(self) -> None:
        """503 with Retry-After is retried; a permanent error is not."""
        busy = answer("503 Service Unavailable", Retry_After="2")
        whole = self.tail(b"x").replace(b"Up-To-Date", b"Closed")
        seen, asked = self.run_script(busy, whole)
        self.assertEqual((content(seen), len(asked)), (b"x", 2))
        for status in ("401 Unauthorized", "403 Forbidden", "400 Bad Request", "410 Gone"):
            with self.assertRaises(Rejected):
                self.run_script(answer(status))

    def test_answers_that_are_not_of_the_protocol(self) -> None:
        """A response that violates the protocol raises `BadResponse`."""
        sse = {"Content_Type": "text/event-stream"}
        for answers in (
            [answer("200 OK", b"<html>", Content_Type="text/html")],
            [answer("200 OK", b"x", Stream_Next_Offset="-1")],
            [self.tail(), answer("200 OK", event("control", "{}"), **sse)],
            [self.tail(), answer("200 OK", event("control", "no JSON"), **sse)],
            [
                self.tail(),
                answer("200 OK", event("data", "*"), Stream_SSE_Data_Encoding="base64", **sse),
            ],
        ):
            with self.assertRaises(BadResponse):
                self.run_script(*answers)

    def test_catch_up_ends(self) -> None:
        """A catch-up read ends at the tail of an open stream."""
        fixture = ClientFixture(settings=SMALL)
        fixture.fixture.put("s", "text/plain", b"ab" * 100)

        async def read() -> list[Batch]:
            return [batch async for batch in fixture.stream("s").read()]

        batches = fixture.run(read())
        self.assertEqual(content(batches), b"ab" * 100)
        self.assertGreater(len(batches), 1)
        self.assertEqual([b.up_to_date for b in batches][-2:], [False, True])
