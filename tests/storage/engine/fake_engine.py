"""Key-value engine in memory whose calls fail on demand."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from durable_streams_tw.storage.engine.kv import Buffer, EngineFailed, EngineFull
from durable_streams_tw.storage.limits import MAX_RECORD

_LONGEST_KEY = 511


@dataclass(frozen=True)
class Fault:
    """Failure of a call. With ``applied``, a commit that fails is on the disk nevertheless."""

    error: type[EngineFull] | type[EngineFailed]
    applied: bool = False


def nth(call: str, number: int, fault: Fault) -> Callable[[str], Fault | None]:
    """Return a plan: only the ``number``-th call of a kind (from 0) fails."""
    left = number

    def plan(made: str) -> Fault | None:
        nonlocal left
        if made != call:
            return None
        left -= 1
        return fault if left == -1 else None

    return plan


def always(call: str, fault: Fault) -> Callable[[str], Fault | None]:
    """Return a plan: all calls of a kind fail."""
    return lambda made: fault if made == call else None


def narrow(number: int) -> Callable[[str], Fault | None]:
    """Return a plan: each batch fails with `EngineFull` after ``number`` changes."""
    left = 0

    def plan(made: str) -> Fault | None:
        nonlocal left
        if made == "begin":
            left = number
        elif made in ("put", "delete"):
            left -= 1
            if left < 0:
                return Fault(EngineFull)
        return None

    return plan


def _no_fault(_: str) -> Fault | None:
    return None


class FakeEngine:
    """`KeyValueEngine` over a dictionary.

    ``content`` is what the disk has: an engine made from another's content is the same
    disk after a crash. ``plan`` is asked before every call (``snapshot``, ``begin``,
    ``get``, ``scan``, ``put``, ``delete``, ``commit``, ``has_space``, ``used``) whether it
    fails; it may do anything else too. ``calls`` counts them, ``fired`` how many failed.
    """

    def __init__(self, content: Mapping[bytes, bytes] | None = None) -> None:
        self.content = dict(content or {})
        self.plan: Callable[[str], Fault | None] = _no_fault
        self.room = True
        self.calls: Counter[str] = Counter()
        self.fired = 0
        self.commits = 0
        self.closed = False
        self.busy = False
        self._generation = 0

    @property
    def min_version(self) -> int:
        return self._generation << 32

    def called(self, call: str) -> Fault | None:
        """Count a call, and return its fault by the plan."""
        assert not self.closed, "the engine is closed"
        self.calls[call] += 1
        fault = self.plan(call)
        if fault is not None:
            self.fired += 1
        return fault

    def call(self, call: str) -> None:
        """Count a call, and raise its fault by the plan."""
        fault = self.called(call)
        if fault is not None:
            raise fault.error(f"{call} fails by plan")

    def clear_plan(self) -> None:
        """Remove the plan: no call fails."""
        self.plan = _no_fault

    @contextmanager
    def snapshot(self) -> Iterator[_FakeSnapshot]:
        self.call("snapshot")
        view = _FakeSnapshot(self, self.content, self.min_version | self.commits)
        try:
            yield view
        finally:
            view.end()

    def begin(self) -> _FakeBatch:
        self.call("begin")
        assert not self.busy, "a batch is still open"
        self.busy = True
        return _FakeBatch(self, self.content, self.min_version | (self.commits + 1))

    def finish(self, content: dict[bytes, bytes]) -> None:
        """Commit a batch."""
        fault = self.called("commit")
        self.busy = False
        if fault is None or fault.applied:
            self.content = content
            self.commits += 1
        if fault is not None:
            if fault.error is EngineFailed:
                self._generation += 1
            raise fault.error("the commit fails by plan")

    def has_space(self, reserve: int) -> bool:
        self.call("has_space")
        return self.room

    def used_bytes(self) -> int:
        self.call("used")
        return sum(len(key) + len(value) for key, value in self.content.items())

    def check_readers(self) -> None:
        self.call("check_readers")

    def close(self) -> None:
        assert not self.busy, "a batch is still open"
        self.closed = True


class _FakeView:
    def __init__(self, engine: FakeEngine, content: dict[bytes, bytes], version: int) -> None:
        self._engine = engine
        self._content = content
        self._keys: list[bytes] | None = None
        self.version = version

    def get(self, key: bytes) -> Buffer | None:
        self._engine.call("get")
        value = self._content.get(key)
        return None if value is None else self._window(value)

    def scan(self, first: bytes, stop: bytes) -> Iterator[tuple[Buffer, Buffer]]:
        self._engine.call("scan")
        keys = self._sorted()
        for key in keys[bisect_left(keys, first) : bisect_left(keys, stop)]:
            yield self._window(key), self._window(self._content[key])

    def scan_from_floor(
        self, first: bytes, lowest: bytes, stop: bytes
    ) -> Iterator[tuple[Buffer, Buffer]]:
        keys = self._sorted()
        index = bisect_left(keys, first)
        if (index == len(keys) or keys[index] != first) and index and keys[index - 1] >= lowest:
            first = keys[index - 1]
        return self.scan(first, stop)

    def _sorted(self) -> list[bytes]:
        if self._keys is None:
            self._keys = sorted(self._content)
        return self._keys

    def _window(self, value: bytes) -> Buffer:
        return value


class _FakeSnapshot(_FakeView):
    """Snapshot whose values turn into garbage when it ends, like LMDB's."""

    def __init__(self, engine: FakeEngine, content: dict[bytes, bytes], version: int) -> None:
        super().__init__(engine, content, version)
        self._shown: list[bytearray] = []

    def _window(self, value: bytes) -> Buffer:
        shown = bytearray(value)
        self._shown.append(shown)
        return memoryview(shown)

    def end(self) -> None:
        for shown in self._shown:
            shown[:] = b"\xdd" * len(shown)


class _FakeBatch(_FakeView):
    def __init__(self, engine: FakeEngine, content: dict[bytes, bytes], version: int) -> None:
        super().__init__(engine, dict(content), version)
        self._ended = False

    def put(self, key: bytes, value: bytes) -> None:
        assert 0 < len(key) <= _LONGEST_KEY, key
        assert len(value) <= MAX_RECORD, key
        self._engine.call("put")
        self._keys = None
        self._content[key] = value

    def delete(self, key: bytes) -> None:
        self._engine.call("delete")
        self._keys = None
        self._content.pop(key, None)

    def commit(self) -> int:
        assert not self._ended
        self._ended = True
        self._engine.finish(self._content)
        return self.version

    def abort(self) -> None:
        if not self._ended:
            self._ended = True
            self._engine.busy = False
