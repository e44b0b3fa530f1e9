"""The PyPI client ``durable-streams``, unmodified, against a running server.

``tests.conformance.run`` sets STREAMS_URL (the URL of the root) and runs this with ``python -m
unittest``. trial does not collect it because of its name.
"""

import asyncio
import os
import threading
import unittest
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice
from typing import Any, Literal

from durable_streams import (
    AsyncDurableStream,
    DurableStream,
    HeadersLike,
    SeqConflictError,
    StreamExistsError,
    StreamNotFoundError,
    astream,
    stream,
)

ROOT = os.environ["STREAMS_URL"]
TIMEOUT = 10.0
PAUSE = 0.05
Live = Literal["long-poll", "sse"]
LIVE: tuple[Live, ...] = ("long-poll", "sse")


def url_of(name: str) -> str:
    """Return the URL of a stream that no other run uses."""
    return f"{ROOT}pypi-client/{os.getpid()}/{name}"


def create(name: str, content_type: str, **more: Any) -> DurableStream:
    """Create a stream and return its handle."""
    return DurableStream.create(url_of(name), content_type=content_type, timeout=TIMEOUT, **more)


def text_of(url: str, offset: str | None = None) -> str:
    """Return all text from an offset to the tail."""
    with stream(url, offset=offset, live=False, timeout=TIMEOUT) as response:
        return response.read_text()


def items_of(url: str, offset: str | None = None) -> list[Any]:
    """Return all JSON messages from an offset to the tail."""
    with stream(url, offset=offset, live=False, timeout=TIMEOUT) as response:
        return response.read_json()


@contextmanager
def meanwhile(*steps: Callable[[], object]) -> Iterator[None]:
    """Run steps in a thread, each after a short pause, while the block reads."""
    failures: list[BaseException] = []

    def walk() -> None:
        pause = threading.Event()
        try:
            for step in steps:
                pause.wait(PAUSE)
                step()
        except Exception as failure:  # noqa: BLE001  (raised below, in the test's own thread)
            failures.append(failure)

    thread = threading.Thread(target=walk)
    thread.start()
    try:
        yield
    finally:
        thread.join()
    if failures:
        raise failures[0]


class Writing(unittest.TestCase):
    """Create, append, read and delete."""

    def test_text(self) -> None:
        """Appends are read back in order, from each offset that a response contained."""
        with create("text", "text/plain", ttl_seconds=3600) as handle:
            first = handle.append("first line\n")
            last = handle.append("second line: é, 日本, 🙂\n")
            self.assertEqual(text_of(handle.url), "first line\nsecond line: é, 日本, 🙂\n")
            self.assertEqual(text_of(handle.url, first.next_offset), "second line: é, 日本, 🙂\n")
            self.assertLess(first.next_offset, last.next_offset)
            self.assertEqual(handle.head().offset, last.next_offset)
            self.assertEqual(handle.head().content_type, "text/plain")

    def test_bytes(self) -> None:
        """An append of 3 MB is read back unchanged, in any number of chunks."""
        sent = bytes(i * 7919 >> 5 & 255 for i in range(3_000_000))
        with create("bytes", "application/octet-stream") as handle:
            handle.append(sent)
            with stream(handle.url, timeout=TIMEOUT) as response:
                got = response.read_bytes()
            self.assertEqual(len(got), len(sent))
            self.assertTrue(got == sent)

    def test_read_all(self) -> None:
        """The first response contains the whole stream, 50 MB; the client sends one request."""
        rows = [{"n": n, "text": "x" * 1000} for n in range(8000)]
        with create("all-json", "application/json") as handle:
            for start in range(0, len(rows), 1000):
                handle.append(rows[start : start + 1000])
            self.assertTrue([row for batch in items_of(handle.url) for row in batch] == rows)
        piece = bytes(range(256)) * 40_000
        sent = piece * 5
        with create("all-bytes", "application/octet-stream") as handle:
            for _ in range(5):
                handle.append(piece)
            with stream(handle.url, live=False, timeout=TIMEOUT) as response:
                self.assertTrue(response.read_bytes() == sent)

    def test_json(self) -> None:
        """JSON messages are read back one by one; a nested array stays one message."""
        sent: list[Any] = [{"n": 1}, [1, [2]], "data: x\n\n", 1.5, None, True, {"é": "🙂"}]
        with create("json", "application/json") as handle:
            for value in sent:
                handle.append(value)
            self.assertEqual(items_of(handle.url), sent)

    def test_concurrent_appends(self) -> None:
        """The asynchronous client sends concurrent appends as one batch, in order."""

        async def write() -> None:
            url = url_of("concurrent")
            async with await AsyncDurableStream.create(
                url, content_type="application/json", timeout=TIMEOUT
            ) as handle:
                await asyncio.gather(*(handle.append({"n": n}) for n in range(200)))

        asyncio.run(write())
        self.assertEqual(items_of(url_of("concurrent")), [{"n": n} for n in range(200)])

    def test_create_twice(self) -> None:
        """An identical PUT succeeds; one with another content type is a conflict."""
        with create("twice", "text/plain"), create("twice", "text/plain"):
            self.assertRaises(StreamExistsError, create, "twice", "application/json")

    def test_sequence(self) -> None:
        """A lower Stream-Seq is refused, and nothing is stored."""
        with create("seq", "text/plain") as handle:
            handle.append("a", seq="002")
            self.assertRaises(SeqConflictError, handle.append, "b", seq="001")
            handle.append("c", seq="003")
            self.assertEqual(text_of(handle.url), "ac")

    def test_producer(self) -> None:
        """A repeated batch of a producer is stored once. The user of this client sets
        the headers.
        """
        with create("producer", "application/json"):
            url = url_of("producer")
        for sequence in (0, 1, 1, 1, 2, 0):
            headers: HeadersLike = {
                "Producer-Id": "py",
                "Producer-Epoch": "0",
                "Producer-Seq": str(sequence),
            }
            with DurableStream(
                url, headers=headers, content_type="application/json", timeout=TIMEOUT
            ) as handle:
                handle.append({"sequence": sequence})
        self.assertEqual(items_of(url), [{"sequence": n} for n in (0, 1, 2)])

    def test_delete(self) -> None:
        """Reads and appends of a deleted stream are refused."""
        with create("gone", "text/plain") as handle:
            handle.delete()
            self.assertRaises(StreamNotFoundError, text_of, handle.url)
            self.assertRaises(StreamNotFoundError, DurableStream.connect, handle.url)


class Tailing(unittest.TestCase):
    """Both live modes, with appends during the read."""

    def test_json(self) -> None:
        """A live read returns stored and new messages in order, each once."""
        for live in LIVE:
            with self.subTest(live=live), create(f"json-{live}", "application/json") as handle:
                handle.append({"n": 0})
                steps = [lambda n=n: handle.append({"n": n}) for n in range(1, 5)]
                with (
                    stream(handle.url, live=live, offset="-1", timeout=TIMEOUT) as response,
                    meanwhile(*steps),
                ):
                    items = list(islice(response.iter_json(), 5))
                self.assertEqual(items, [{"n": n} for n in range(5)])

    def test_text(self) -> None:
        """Text that looks like SSE fields, or has unusual line ends, is read back unchanged."""
        sent = [" leading space", "two\nlines\n", "event: forged\ndata: x", "é\u2028\ufeff🙂", "$"]
        for live in LIVE:
            with self.subTest(live=live), create(f"text-{live}", "text/plain") as handle:
                steps = [lambda text=text: handle.append(text) for text in sent]
                got = ""
                with (
                    stream(handle.url, live=live, offset="-1", timeout=TIMEOUT) as response,
                    meanwhile(*steps),
                ):
                    for text in response.iter_text():
                        got += text
                        if got.endswith(sent[-1]):
                            break
                self.assertEqual(got, "".join(sent))

    def test_asynchronous(self) -> None:
        """The asynchronous client follows a stream with ``async for``."""

        async def tail(live: Live) -> list[Any]:
            url = url_of(f"async-{live}")
            items: list[Any] = []
            async with await AsyncDurableStream.create(
                url, content_type="application/json", timeout=TIMEOUT
            ) as handle:

                async def write() -> None:
                    for n in range(5):
                        await asyncio.sleep(PAUSE)
                        await handle.append({"n": n})

                writing = asyncio.create_task(write())
                async with astream(url, live=live, offset="-1", timeout=TIMEOUT) as response:
                    async for item in response.iter_json():
                        items.append(item)
                        if len(items) == 5:
                            break
                await writing
            return items

        for live in LIVE:
            with self.subTest(live=live):
                self.assertEqual(asyncio.run(tail(live)), [{"n": n} for n in range(5)])

    def test_resume(self) -> None:
        """A new reader continues at a saved offset."""
        for live in LIVE:
            with self.subTest(live=live), create(f"resume-{live}", "application/json") as handle:
                for n in range(3):
                    handle.append({"n": n})
                seen: list[Any] = []
                with stream(handle.url, live=live, offset="-1", timeout=TIMEOUT) as response:
                    for event in response.iter_events(mode="json"):
                        seen += event.data
                        saved = event.next_offset
                        if len(seen) == 3:
                            break
                handle.append({"n": 3})
                with (
                    stream(handle.url, live=live, offset=saved, timeout=TIMEOUT) as response,
                    meanwhile(lambda: handle.append({"n": 4})),
                ):
                    rest = list(islice(response.iter_json(), 2))
                self.assertEqual(seen + rest, [{"n": n} for n in range(5)])


if __name__ == "__main__":
    unittest.main()
