"""The PyPI client ``durable-streams``, unchanged, against a running server.

``tests.conformance.run`` sets STREAMS_URL (the root under which streams live) and starts this
with ``python -m unittest``. The name keeps ``trial tests`` away: here are real sockets.
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
    """A stream's address that no other run uses."""
    return f"{ROOT}pypi-client/{os.getpid()}/{name}"


def create(name: str, content_type: str, **more: Any) -> DurableStream:
    """A new stream and its handle."""
    return DurableStream.create(url_of(name), content_type=content_type, timeout=TIMEOUT, **more)


def text_of(url: str, offset: str | None = None) -> str:
    """All the text from an offset to the tail."""
    with stream(url, offset=offset, live=False, timeout=TIMEOUT) as response:
        return response.read_text()


def items_of(url: str, offset: str | None = None) -> list[Any]:
    """All JSON messages from an offset to the tail."""
    with stream(url, offset=offset, live=False, timeout=TIMEOUT) as response:
        return response.read_json()


@contextmanager
def meanwhile(*steps: Callable[[], object]) -> Iterator[None]:
    """Runs the steps in a thread, each after a short pause, while the block reads."""
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
        """Appends come back joined, and from any offset that was handed out."""
        with create("text", "text/plain", ttl_seconds=3600) as handle:
            first = handle.append("first line\n")
            last = handle.append("second line: é, 日本, 🙂\n")
            self.assertEqual(text_of(handle.url), "first line\nsecond line: é, 日本, 🙂\n")
            self.assertEqual(text_of(handle.url, first.next_offset), "second line: é, 日本, 🙂\n")
            self.assertLess(first.next_offset, last.next_offset)
            self.assertEqual(handle.head().offset, last.next_offset)
            self.assertEqual(handle.head().content_type, "text/plain")

    def test_bytes(self) -> None:
        """Three megabytes in one append come back unchanged, in however many chunks."""
        sent = bytes(i * 7919 >> 5 & 255 for i in range(3_000_000))
        with create("bytes", "application/octet-stream") as handle:
            handle.append(sent)
            with stream(handle.url, timeout=TIMEOUT) as response:
                got = response.read_bytes()
            self.assertEqual(len(got), len(sent))
            self.assertTrue(got == sent)

    def test_read_all(self) -> None:
        """Everything is in the first answer: the client takes no second one."""
        rows = [{"n": n, "text": "x" * 1000} for n in range(8000)]
        with create("all-json", "application/json") as handle:
            for start in range(0, len(rows), 1000):
                handle.append(rows[start : start + 1000])
            self.assertTrue([row for batch in items_of(handle.url) for row in batch] == rows)
        sent = bytes(range(256)) * 30_000
        with create("all-bytes", "application/octet-stream") as handle:
            handle.append(sent)
            with stream(handle.url, live=False, timeout=TIMEOUT) as response:
                self.assertTrue(response.read_bytes() == sent)

    def test_json(self) -> None:
        """Messages come back one by one; an array that was one message stays one."""
        sent: list[Any] = [{"n": 1}, [1, [2]], "data: x\n\n", 1.5, None, True, {"é": "🙂"}]
        with create("json", "application/json") as handle:
            for value in sent:
                handle.append(value)
            self.assertEqual(items_of(handle.url), sent)

    def test_concurrent_appends(self) -> None:
        """The asynchronous client sends what piles up as one batch, in order."""

        async def write() -> None:
            url = url_of("concurrent")
            async with await AsyncDurableStream.create(
                url, content_type="application/json", timeout=TIMEOUT
            ) as handle:
                await asyncio.gather(*(handle.append({"n": n}) for n in range(200)))

        asyncio.run(write())
        self.assertEqual(items_of(url_of("concurrent")), [{"n": n} for n in range(200)])

    def test_create_twice(self) -> None:
        """The same again is fine, another content type is a conflict."""
        with create("twice", "text/plain"), create("twice", "text/plain"):
            self.assertRaises(StreamExistsError, create, "twice", "application/json")

    def test_sequence(self) -> None:
        """A Stream-Seq that goes back is refused, and nothing of it is stored."""
        with create("seq", "text/plain") as handle:
            handle.append("a", seq="002")
            self.assertRaises(SeqConflictError, handle.append, "b", seq="001")
            handle.append("c", seq="003")
            self.assertEqual(text_of(handle.url), "ac")

    def test_producer(self) -> None:
        """The producer headers, which this client leaves to its user: a repeat is stored once."""
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
        """A deleted stream is gone for readers and writers."""
        with create("gone", "text/plain") as handle:
            handle.delete()
            self.assertRaises(StreamNotFoundError, text_of, handle.url)
            self.assertRaises(StreamNotFoundError, DurableStream.connect, handle.url)


class Tailing(unittest.TestCase):
    """Both live modes, with appends that arrive while the reader waits."""

    def test_json(self) -> None:
        """A tail brings what was there and what comes, once each, in order."""
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
        """Text that looks like the framing, or has odd line ends, comes back as it went in."""
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
        """The asynchronous client tails with ``async for``."""

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
        """A reader that lost its connection goes on from the offset it has saved."""
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
