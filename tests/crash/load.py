"""Writers with a model of their acknowledged messages.

Every message has the writer's name and its number, so that the content of a stream can be checked:
``w3:17;`` is the 18th message of writer 3.
"""

from __future__ import annotations

import random
import re
from dataclasses import dataclass, field

from tests.crash.processes import Answer, DriverProcess

_MESSAGE = re.compile(r"(w\d+):(\d+):x*;")


@dataclass
class Writer:
    """Idempotent producer with several pipelined messages on one stream.

    ``next`` is the first message that has not been sent, ``acknowledged`` the first that is not
    known to be stored. ``last`` is the message with which it closes its stream.
    """

    name: str
    path: str
    last: int | None = None
    next: int = 0
    acknowledged: int = 0
    closed: bool = False
    sizes: dict[int, int] = field(default_factory=dict)

    def text(self, number: int) -> str:
        """Return the next message."""
        return f"{self.name}:{number}:{'x' * self.sizes[number]};"

    def finished(self) -> bool:
        """Return True if all its messages have been sent."""
        return self.last is not None and self.next > self.last


class Load:
    """Writers on streams: some share a stream, some close theirs."""

    def __init__(self, seed: str) -> None:
        self._random = random.Random(seed)
        self.writers = [Writer(f"w{number}", f"shared{number % 2}") for number in range(4)]
        self.writers += [Writer(f"w{number}", f"own{number}") for number in range(4, 8)]
        self._closed = 0
        self._asked: dict[int, tuple[Writer, int]] = {}

    def create(self, process: DriverProcess) -> None:
        """Create the missing streams."""
        for path in sorted({writer.path for writer in self.writers}):
            assert process.ask("create", path, "")[0] in ("done", "duplicate")

    def open_closing(self, process: DriverProcess) -> None:
        """Add a writer that closes its stream with one of its next messages."""
        self._closed += 1
        path = f"closing{self._closed}"
        assert process.ask("create", path, "")[0] == "done"
        last = self._random.randrange(1, 40)
        self.writers.append(Writer(f"w{100 + self._closed}", path, last))

    def send(self, process: DriverProcess, number: int) -> None:
        """Send messages until about ``number`` are unacknowledged."""
        waiting = [writer for writer in self.writers if not writer.finished()]
        while len(self._asked) < number and waiting:
            writer = self._random.choice(waiting)
            size = self._random.choice([0, 10, 100, 1000, 1900, 20_000])
            writer.sizes[writer.next] = size if self._random.random() < 0.3 else 20
            self._ask(process, writer, writer.next)
            writer.next += 1
            if writer.finished():
                waiting.remove(writer)

    def _ask(self, process: DriverProcess, writer: Writer, number: int) -> None:
        closes = number == writer.last
        producer = [writer.name, 0, number]
        asked = process.send("append", writer.path, writer.text(number), producer, closes)
        self._asked[asked] = (writer, number)

    def take(self, answers: list[Answer]) -> int:
        """Process responses (in order for each writer); return how many acknowledge a message."""
        for number, outcome, *_ in answers:
            writer, sent = self._asked.pop(number)
            assert outcome == "done", (writer, sent, outcome)
            assert sent == writer.acknowledged, (writer, sent)
            writer.acknowledged += 1
        return len(answers)

    def check(self, process: DriverProcess) -> int:
        """Check the streams after a crash; return the number of stored but unacknowledged messages.

        Each stream must have all acknowledged messages, each once and in order, and must be closed
        if and only if it has the closing message.
        """
        self._asked.clear()
        more = 0
        contents: dict[str, dict[str, list[int]]] = {}
        for writer in self.writers:
            if writer.path not in contents:
                text, closed = read(process, writer.path)
                contents[writer.path] = found = self._parse(text)
                if writer.last is not None:
                    numbers = found.get(writer.name, [])
                    assert closed == (writer.last in numbers), (writer, numbers, closed)
                    writer.closed = closed
                else:
                    assert not closed, writer
            numbers = contents[writer.path].get(writer.name, [])
            assert numbers == list(range(len(numbers))), (writer, numbers)
            assert len(numbers) >= writer.acknowledged, (writer, len(numbers))
            assert len(numbers) <= writer.next, (writer, len(numbers))
            more += len(numbers) - writer.acknowledged
        return more

    def _parse(self, text: str) -> dict[str, list[int]]:
        """Return the message numbers of a stream by writer; it may contain nothing else."""
        found: dict[str, list[int]] = {}
        position = 0
        sizes = {writer.name: writer.sizes for writer in self.writers}
        for match in _MESSAGE.finditer(text):
            assert match.start() == position, text[position : position + 50]
            position = match.end()
            name, number = match[1], int(match[2])
            assert len(match[0]) == len(f"{name}:{number}:;") + sizes[name][number], match[0]
            found.setdefault(name, []).append(number)
        assert position == len(text), text[position : position + 50]
        return found

    def retry(self, process: DriverProcess, stored: int) -> None:
        """Send unacknowledged messages again, and check that exactly the stored ones are
        duplicates.

        On a closed stream only the closing message is a duplicate; all others get "stream closed"
        (PROTOCOL.md §5.2.1).
        """
        asked: dict[int, tuple[Writer, int]] = {}
        for writer in self.writers:
            for number in range(writer.acknowledged, writer.next):
                producer, closes = [writer.name, 0, number], number == writer.last
                text = writer.text(number)
                sent = process.send("append", writer.path, text, producer, closes)
                asked[sent] = (writer, number)
        duplicates = 0
        for sent, outcome, *_ in process.await_answers(len(asked)):
            writer, number = asked.pop(sent)
            if outcome == "stream-closed":
                assert writer.closed and number != writer.last, (writer, number)
                outcome = "duplicate"
            assert outcome in ("done", "duplicate"), (writer, number, outcome)
            assert number == writer.acknowledged, (writer, number)
            writer.acknowledged += 1
            duplicates += outcome == "duplicate"
        assert duplicates == stored, (duplicates, stored)


def read(process: DriverProcess, path: str) -> tuple[str, bool]:
    """Return the content of a stream and whether it is closed."""
    text = ""
    while True:
        outcome, *found = process.ask("read", path, len(text))
        assert outcome == "read", (path, outcome)
        data, tail, closed = found
        text += data
        if len(text) == tail:
            return text, closed
