"""Suite: reads at all positions, with all limits."""

from __future__ import annotations

from itertools import accumulate

from durable_streams_tw.protocol import json_mode
from durable_streams_tw.protocol.errors import Problem
from durable_streams_tw.protocol.limits import MAX_POSITION
from durable_streams_tw.protocol.streams.bodies import Body
from durable_streams_tw.protocol.streams.commands import Create, ForkRequest
from durable_streams_tw.protocol.streams.offsets import NOW
from durable_streams_tw.protocol.streams.state import NO_EXPIRY
from durable_streams_tw.storage.api import Chunk
from durable_streams_tw.storage.limits import RECORD_PAYLOAD
from tests.storage.store_case import JSON, StoreCase, post, put

# Messages that contain bytes which look like boundaries.
TRICKY = (
    *(
        b"1",
        b'"a,b"',
        b"[1,2,[3,4]]",
        b'{"a":1,"b":[{"c":","},2]}',
        b'"\\",\\\\"',
        b"[]",
        b"-1.0e5",
    ),
    *(b'"],["', b'"\\ud83d,"', '"é,\U0001f600"'.encode(), b'{"a" : 1 ,\n"b":2 }', b"null"),
)
# From one byte to more than a record, so that records end between and inside of messages.
SIZES = (1, 3, 900, 2, 16_362, 16_361, 16_363, 1, 1, 16_364, 5_000, 40_000, 2, 200_000, 7, 32_726)


def message(size: int, mark: int) -> bytes:
    """Return a message of a given size with many commas."""
    if size < 3:
        return b"%d" % (mark % 10 ** min(size, 1) if size == 1 else 10 + mark % 90)
    return b'"' + (b"%d," % mark * size)[: size - 2] + b'"'


class ReadingSuite(StoreCase):
    """Reads return exact bytes, and whole messages."""

    record_size = RECORD_PAYLOAD
    """Largest record of the store."""

    def test_every_position_and_limit(self) -> None:
        """A stream of bytes can be read from any position with any limit."""
        self.created(put(raw=b"01234"))
        self.appended(post(b"5678"))
        self.appended(post(b"9abcdef"))
        whole = b"0123456789abcdef"
        for _ in range(2):
            for start in range(len(whole) + 1):
                for limit in (1, 3, 4, 5, 15, 16, 1000):
                    chunks = self.chunks(limit, start=start)
                    self.assertEqual(b"".join([chunk.data for chunk in chunks]), whole[start:])
                    self.assertEqual(chunks[0].start, start)
                    self.assertTrue(all(len(chunk.data) <= limit for chunk in chunks))
            self.restart()

    def test_large_streams_of_bytes(self) -> None:
        """Streams of several records."""
        self.created(put(content_type="application/octet-stream"))
        whole = b""
        for number, size in enumerate(SIZES):
            raw = bytes([number]) * size
            self.appended(post(raw, content_type="application/octet-stream"))
            whole += raw
        self.restart()
        for limit in (1000, RECORD_PAYLOAD - 1, RECORD_PAYLOAD, RECORD_PAYLOAD + 1, 100_000, 2**24):
            chunks = self.chunks(limit)
            self.assertEqual(b"".join([chunk.data for chunk in chunks]), whole)
            self.assertTrue(all(len(chunk.data) <= limit for chunk in chunks))
            positions = [chunk.start for chunk in chunks]
            self.assertEqual(positions, [0, *[chunk.end for chunk in chunks[:-1]]])

    def test_every_position_and_limit_of_forks(self) -> None:
        """Inherited and own bytes are read as one stream, with exact limits."""
        self.created(put("a", raw=b"0123456789"))
        whole = {"a": b"0123456789"}
        for path, source, point, own in (
            ("b", "a", 6, b"abcdef"),
            ("c", "b", 9, b"ABC"),
            ("d", "c", 4, b""),
            ("e", "d", 4, b"xyz"),
        ):
            request = ForkRequest(source, point)
            self.created(Create(path, None, NO_EXPIRY, False, Body(own), request))
            whole[path] = whole[source][:point] + own
        self.appended(post(b"later", "a"))
        whole["a"] += b"later"
        for _ in range(2):
            for path, content in whole.items():
                for start in range(len(content) + 1):
                    for limit in (1, 2, 3, 5, 7, 100):
                        found = [chunk.data for chunk in self.chunks(limit, path, start)]
                        self.assertEqual(b"".join(found), content[start:])
                        self.assertTrue(all(len(piece) == limit for piece in found[:-1]))
            self.restart()

    def test_answers_in_pieces(self) -> None:
        """A piece has an exact size; `read_range` returns the rest of the response."""
        self.created(put("a", JSON, b"[" + b",".join(map(message, SIZES, range(1, 17))) + b"]"))
        self.created(put("b", "text/plain", b"0123456789"))
        point = self.appended(post(b'["last",1,2]', "a", content_type=JSON)).tail - 2
        request = ForkRequest("a", point)
        self.created(Create("f", None, NO_EXPIRY, False, Body(b"[3,4]"), request))
        for path in ("a", "b", "f"):
            tail = self.state_of(path).tail
            whole = self.content(path)
            for _ in range(2):
                for limit in (1, 3, 905, 16_363, 60_000, point, tail, 2**40):
                    plain = self.read(0, limit, path)
                    for piece in (1, 2, 1000, RECORD_PAYLOAD, tail - 1, 2**20):
                        chunk = self.result(self.store.read(path, 0, limit, None, piece))
                        assert isinstance(chunk, Chunk), chunk
                        self.assertEqual(chunk.end, plain.end)
                        self.assertEqual(chunk.at_tail, plain.at_tail)
                        self.assertEqual(chunk.data, whole[: min(piece, plain.end)])
                        if chunk.more:
                            stop = chunk.end - chunk.more
                            rest = self.result(
                                self.store.read_range(path, chunk.state.id, stop, chunk.end)
                            )
                            self.assertEqual(rest, whole[stop : chunk.end])
                self.restart()

    def test_range_of_another_stream(self) -> None:
        """A range of another stream at the path is refused."""
        first = self.created(put("a", raw=b"abcdef"))
        self.assertEqual(self.result(self.store.read_range("a", first.id, 1, 4)), b"bcd")
        self.deleted("a")
        outcome = self.result(self.store.read_range("a", first.id, 1, 4))
        self.assertRefused(Problem.STREAM_NOT_FOUND, outcome)
        self.created(put("a", raw=b"ABCDEF"))
        outcome = self.result(self.store.read_range("a", first.id, 1, 4))
        self.assertRefused(Problem.STREAM_NOT_FOUND, outcome)

    def test_now(self) -> None:
        """``now`` is the tail."""
        self.created(put())
        for content in (b"", b"abc"):
            if content:
                self.appended(post(content))
            chunk = self.read(NOW)
            self.assertEqual((chunk.start, chunk.data, chunk.at_tail), (len(content), b"", True))

    def test_the_tail(self) -> None:
        """A read at the tail returns no bytes."""
        for path, content_type, raw in (("a", "text/plain", b"abc"), ("b", JSON, b"[1,2]")):
            tail = self.created(put(path, content_type, raw)).tail
            chunk = self.read(tail, path=path)
            self.assertEqual((chunk.start, chunk.data, chunk.at_tail), (tail, b"", True))

    def test_beyond_the_tail(self) -> None:
        """A read after the tail is refused."""
        self.created(put(raw=b"abc"))
        self.created(put("j", JSON, b"[1,2]"))
        for path, offset in (("a", 4), ("a", MAX_POSITION), ("j", 5), ("j", 6)):
            outcome = self.result(self.store.read(path, offset, 100))
            self.assertRefused(Problem.OFFSET_OUT_OF_RANGE, outcome)
        self.appended(post(b"d"))
        self.assertEqual(self.read(4).data, b"")

    def test_the_state_that_was_read(self) -> None:
        """A chunk has the state of its snapshot."""
        self.created(put(raw=b"abc"))
        early = self.read()
        late = self.appended(post(b"d", closed=True))
        self.assertEqual((early.state.tail, early.state.closed), (3, False))
        self.assertEqual(self.read().state, late)
        self.assertEqual(self.read(2, 1).state, late)
        self.assertFalse(self.read(2, 1).at_tail)

    def test_other_stream_at_the_path(self) -> None:
        """A reader does not continue in another stream at the path."""
        first = self.created(put(raw=b"first"))
        self.assertEqual(self.read(2, stream_id=first.id).data, b"rst")
        self.deleted()
        outcome = self.result(self.store.read("a", 2, 100, first.id))
        self.assertRefused(Problem.STREAM_NOT_FOUND, outcome)
        second = self.created(put(raw=b"second"))
        for offset in (0, 2, NOW, 1000):
            outcome = self.result(self.store.read("a", offset, 100, first.id))
            self.assertRefused(Problem.STREAM_NOT_FOUND, outcome)
        self.assertEqual(self.read(2, stream_id=second.id).data, b"cond")

    def test_unknown(self) -> None:
        """A read without a stream is refused."""
        for offset in (0, NOW, 5):
            outcome = self.result(self.store.read("a", offset, 100))
            self.assertRefused(Problem.STREAM_NOT_FOUND, outcome)
        self.assertRefused(Problem.STREAM_NOT_FOUND, self.result(self.store.get_state("a")))

    def test_read_your_writes(self) -> None:
        """A read sees all outcomes reported before it."""
        self.created(put())
        for number in range(1, 30):
            self.appended(post(b"x"))
            self.assertEqual(self.read(number - 1).data, b"x")
            self.assertEqual(self.state_of().tail, number)

    # -- JSON mode ----------------------------------------------------------------------------

    def _check_boundaries(self, messages: list[bytes]) -> None:
        """Check that all boundaries can be read from, and all other positions are refused."""
        whole = json_mode.join(tuple(messages))
        boundaries = set(accumulate((len(message) + 1 for message in messages), initial=0))
        for position in range(len(whole) + 1):
            if position in boundaries:
                self.assertEqual(self.content(start=position), whole[position:])
            else:
                outcome = self.result(self.store.read("a", position, 100))
                self.assertRefused(Problem.OFFSET_OUT_OF_RANGE, outcome)

    def test_positions_in_one_append(self) -> None:
        self.created(put(content_type=JSON))
        self.appended(post(b"[" + b" ,\n".join(TRICKY) + b"]", content_type=JSON))
        self._check_boundaries(list(TRICKY))
        self.restart()
        self._check_boundaries(list(TRICKY))

    def test_positions_in_many_appends(self) -> None:
        self.created(put("a", JSON, TRICKY[1]))
        messages = [TRICKY[1]]
        for tricky in TRICKY:
            self.appended(post(b"[%b]" % tricky, content_type=JSON))
            messages.append(tricky)
        self.submit_all(*[post(b"[%b,0]" % tricky, content_type=JSON) for tricky in TRICKY])
        for tricky in TRICKY:
            messages += [tricky, b"0"]
        self._check_boundaries(messages)
        self.restart()
        self._check_boundaries(messages)

    def _large_messages(self) -> list[bytes]:
        messages = [message(size, mark) for mark, size in enumerate(SIZES)]
        self.assertEqual([len(message) for message in messages], list(SIZES))
        return messages

    def _check_chunks(self, messages: list[bytes]) -> None:
        whole = json_mode.join(tuple(messages))
        for limit in (1, 1024, 1025, RECORD_PAYLOAD, 50_000, 2**24):
            chunks = self.chunks(limit)
            self.assertEqual(b"".join([chunk.data for chunk in chunks]), whole)
            found: list[bytes] = []
            for chunk in chunks:
                parts = json_mode.split(json_mode.document(chunk.data))
                found += parts
                # No message after the limit, except for the last record.
                last = len(parts[-1]) + 1
                self.assertLess(len(chunk.data) - max(last, self.record_size), limit)
            self.assertEqual(found, messages)

    def test_chunks_of_one_append(self) -> None:
        """Chunks of a large batch are whole messages."""
        messages = self._large_messages()
        self.created(put(content_type=JSON))
        self.appended(post(b"[" + b",".join(messages) + b"]", content_type=JSON))
        self._check_chunks(messages)
        self.restart()
        self._check_chunks(messages)

    def test_chunks_of_many_appends(self) -> None:
        """Chunks of many appends are whole messages."""
        messages = self._large_messages()
        self.created(put("a", JSON, messages[0]))
        for one in messages[1:]:
            self.appended(post(b"[%b]" % one, content_type=JSON))
        self.submit_all(*[post(b"[%b]" % one, content_type=JSON) for one in messages])
        self._check_chunks(messages * 2)
        self.restart()
        self._check_chunks(messages * 2)

    def test_positions_in_large_messages(self) -> None:
        """Positions at record ends and commas inside a message are refused."""
        messages = self._large_messages()
        self.created(put(content_type=JSON))
        self.appended(post(b"[" + b",".join(messages) + b"]", content_type=JSON))
        whole = json_mode.join(tuple(messages))
        boundaries = set(accumulate((len(message) + 1 for message in messages), initial=0))
        tried = {position + by for position in boundaries for by in (-2, -1, 0, 1, 2, 3)}
        for boundary in boundaries:
            tried |= {boundary + RECORD_PAYLOAD * times for times in range(1, 13)}
        for position in sorted(tried):
            if position in boundaries:
                self.assertEqual(self.read(position, 2**24).data, whole[position:])
            elif 0 <= position <= len(whole):
                outcome = self.result(self.store.read("a", position, 100))
                self.assertRefused(Problem.OFFSET_OUT_OF_RANGE, outcome)

    def test_the_deepest_message(self) -> None:
        """Positions around the most deeply nested message work."""
        deepest = b'{"a":' * 256 + b"1" + b"}" * 256
        self.created(put(content_type=JSON))
        self.appended(post(b"[1,%b,2]" % deepest, content_type=JSON))
        self.assertEqual(self.messages(start=2), (deepest, b"2"))
        self.assertEqual(self.messages(start=3 + len(deepest)), (b"2",))
