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
from tests.client.rig import Rig, Script, answer

WHOLE = Settings(long_poll_timeout=2.0, sse_reconnect_interval=3.0)
SMALL = Settings(max_chunk=64, long_poll_timeout=2.0, sse_reconnect_interval=3.0)
OFFSET = "0000000000000000_0000000000000000"


async def gather(rig: Rig, into: list[Batch], name: str = "s", **how: Any) -> None:
    async for batch in rig.stream(name).follow(**how):
        into.append(batch)


def content(batches: list[Batch]) -> bytes:
    return b"".join(batch.data for batch in batches)


def event(kind: str, *lines: str) -> bytes:
    return "".join([f"event: {kind}\n", *(f"data: {line}\n" for line in lines), "\n"]).encode()


class FollowTests(SynchronousTestCase):
    """Against the real streams."""

    def followed(
        self,
        content_type: str,
        live: Live,
        parts: list[bytes],
        cuts: list[int | None],
        settings: Settings = SMALL,
    ) -> list[Batch]:
        """What a follower sees of parts that are appended while it follows."""
        rig = Rig(cuts=list(cuts), settings=settings)
        rig.rig.put("s", content_type)
        half = len(parts) // 2
        for part in parts[:half]:
            rig.rig.post("s", part, content_type)
        seen: list[Batch] = []
        done = rig.start(gather(rig, seen, live=live))
        for part in parts[half:]:
            rig.turn(0.4)
            rig.rig.post("s", part, content_type)
        rig.turn(0.4)
        rig.rig.ask("POST", "s", {"Stream-Closed": "true"})
        rig.finish(done)
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
        """Carriage returns too, which event streams cannot carry."""
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
        """They are handed out in pieces, and what was handed out is not handed out again."""
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

    def test_another_stream_midway(self) -> None:
        """What is left of an answer is not taken from a stream of another life."""
        rig = Rig(cuts=[400_000], settings=WHOLE)
        seen: list[Batch] = []
        with patch.object(messages, "PIECE", 20):
            rig.rig.put("s", "text/plain", b"1" * 600_000)
            done = rig.start(gather(rig, seen))
            rig.turn()
            self.assertGreater(len(content(seen)), 0)
            self.assertIsNone(seen[-1].offset)
            rig.rig.ask("DELETE", "s")
            rig.rig.put("s", "text/plain", b"2" * 600_000)
            self.assertRaises(BadResponse, rig.finish, done)
        self.assertNotIn(b"2", content(seen))

    def test_offsets_resume(self) -> None:
        """Every offset that was handed out is one to go on from, without gap or overlap."""
        parts = [bytes([number]) * 50 for number in range(6)]
        seen = self.followed("application/octet-stream", "sse", parts, [])
        self.assertGreater(len(seen), 3)
        rig = Rig(settings=SMALL)
        rig.rig.put("s", "application/octet-stream")
        rig.rig.post("s", b"".join(parts), "application/octet-stream")
        rig.rig.ask("POST", "s", {"Stream-Closed": "true"})
        for number, batch in enumerate(seen):
            rest: list[Batch] = []
            rig.run(gather(rig, rest, offset=batch.offset))
            self.assertEqual(content(seen[: number + 1]) + content(rest), b"".join(parts))

    def test_a_token_that_was_renewed(self) -> None:
        """A live request that is refused for its old token is made again with the new one."""
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
            rig = Rig(script, tokens=["old", "old", "new"])
            seen: list[Batch] = []
            rig.run(gather(rig, seen, live=live))
            self.assertEqual(content(seen), b"xy")
            self.assertIn(b"Bearer new", script.requests[-1])
            self.assertEqual(rig.notices, [])
            script = Script(caught_up, answer("401 Unauthorized"))
            rig = Rig(script, tokens=["old"])
            self.assertRaises(Rejected, rig.run, gather(rig, [], live=live))

    def test_now(self) -> None:
        """From now on: nothing of what there is, and an offset from the start."""
        rig = Rig()
        rig.rig.put("s", "text/plain", b"old")
        seen: list[Batch] = []
        done = rig.start(gather(rig, seen, offset="now"))
        rig.turn(1)
        self.assertEqual([(batch.data, str(batch.offset)[-1]) for batch in seen], [(b"", "3")])
        rig.rig.post("s", b"new")
        rig.rig.ask("POST", "s", {"Stream-Closed": "true"})
        rig.finish(done)
        self.assertEqual(content(seen), b"new")

    def test_an_event_is_handed_out_at_once(self) -> None:
        """Not when a connection ends, and not when the next event comes."""
        rig = Rig()
        rig.rig.put("s", "application/octet-stream")
        seen: list[Batch] = []
        done = rig.start(gather(rig, seen))
        for number in range(3):
            rig.turn()
            rig.rig.post("s", b"%d" % number, "application/octet-stream")
            rig.turn()
            self.assertEqual(content(seen), b"012"[: number + 1])
        done.addErrback(lambda _: None)
        done.cancel()

    def test_a_server_that_is_away(self) -> None:
        """Is asked again, ever less often, and told of once."""
        rig = Rig(endure=None)
        rig.rig.put("s", "application/octet-stream")
        seen: list[Batch] = []
        done = rig.start(gather(rig, seen))
        rig.turn(1)
        rig.network.down = True
        rig.network.links[-1].cut()
        before = rig.network.connects
        for _ in range(600):
            rig.turn(1)
        self.assertTrue(60 <= rig.network.connects - before <= 130, rig.network.connects)
        self.assertEqual(len(rig.notices), 1, rig.notices)
        rig.network.down = False
        rig.rig.post("s", b"back", "application/octet-stream")
        for _ in range(12):
            rig.turn(1)
        self.assertEqual(content(seen), b"back")
        rig.rig.ask("POST", "s", {"Stream-Closed": "true"})
        rig.finish(done)

    def test_a_server_that_stays_away(self) -> None:
        rig = Rig(endure=20)
        rig.network.down = True
        before = rig.clock.seconds()
        self.assertRaises(Unreachable, rig.run, gather(rig, []))
        self.assertLessEqual(rig.clock.seconds() - before, 21)

    def test_a_deleted_stream(self) -> None:
        """Ends the follower with what the server says, after all that there was."""
        for live in ("sse", "long-poll"):
            rig = Rig()
            rig.rig.put("s", "application/octet-stream", b"last words")
            seen: list[Batch] = []
            done = rig.start(gather(rig, seen, live=live))
            rig.turn(1)
            rig.rig.ask("DELETE", "s")
            with self.assertRaises(Rejected) as caught:
                rig.finish(done)
            self.assertEqual(caught.exception.status, 404)
            self.assertEqual(content(seen), b"last words")

    def test_a_silent_connection_is_given_up(self) -> None:
        """One that brings nothing for longer than any server is silent."""
        rig = Rig()
        rig.rig.put("s", "application/octet-stream")
        seen: list[Batch] = []
        done = rig.start(gather(rig, seen))
        rig.turn(1)
        dead = rig.network.links[-1]
        dead.carry = lambda: False  # type: ignore[method-assign]
        rig.rig.post("s", b"unheard", "application/octet-stream")
        rig.turn(95)
        for _ in range(4):
            rig.turn(1)
        self.assertEqual(content(seen), b"unheard")
        done.addErrback(lambda _: None)
        done.cancel()


class ScriptedTests(SynchronousTestCase):
    """Against servers that are not ours."""

    def run_script(self, *answers: bytes, **how: Any) -> tuple[list[Batch], list[bytes]]:
        script = Script(*answers)
        rig = Rig(script, endure=5)
        seen: list[Batch] = []
        try:
            rig.run(gather(rig, seen, **how))
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
        """They are asked for again: an event stream's data are nobody's until the offset is."""
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
        """Is long-polled, and its cursor echoed."""
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
        """What was cut is asked for again, and nothing of it is handed out."""
        whole = self.tail(b"whole").replace(b"Up-To-Date", b"Closed")
        seen, asked = self.run_script(whole[:-2], whole)
        self.assertEqual((content(seen), len(asked)), (b"whole", 2))

    def test_a_body_without_length_is_not_believed(self) -> None:
        head = b"HTTP/1.0 200 OK\r\nStream-Next-Offset: a\r\nStream-Closed: true\r\n\r\nha"
        self.assertRaises(Unreachable, self.run_script, *[head] * 20)
        self.assertEqual(self.seen, [])

    def test_passing_failures(self) -> None:
        """503 with Retry-After is waited out; what is refused for good is not asked again."""
        busy = answer("503 Service Unavailable", Retry_After="2")
        whole = self.tail(b"x").replace(b"Up-To-Date", b"Closed")
        seen, asked = self.run_script(busy, whole)
        self.assertEqual((content(seen), len(asked)), (b"x", 2))
        for status in ("401 Unauthorized", "403 Forbidden", "400 Bad Request", "410 Gone"):
            with self.assertRaises(Rejected):
                self.run_script(answer(status))

    def test_answers_that_are_not_of_the_protocol(self) -> None:
        """Say so: nothing is guessed."""
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
        """At the tail of an open stream."""
        rig = Rig(settings=SMALL)
        rig.rig.put("s", "text/plain", b"ab" * 100)

        async def read() -> list[Batch]:
            return [batch async for batch in rig.stream("s").read()]

        batches = rig.run(read())
        self.assertEqual(content(batches), b"ab" * 100)
        self.assertGreater(len(batches), 2)
        self.assertEqual([b.up_to_date for b in batches][-2:], [False, True])
