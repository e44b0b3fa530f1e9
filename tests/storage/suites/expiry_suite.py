"""Suite: expiry of streams (PROTOCOL.md §5.1)."""

from __future__ import annotations

from durable_streams_tw.protocol.errors import Problem
from durable_streams_tw.protocol.streams.commands import Create
from durable_streams_tw.protocol.streams.offsets import NOW
from durable_streams_tw.protocol.streams.outcomes import Created
from durable_streams_tw.protocol.streams.state import Lifetime
from tests.storage.store_case import JSON, START, StoreCase, post, put

TWO_SECONDS = Lifetime(ttl=2)


def until(seconds: float) -> Lifetime:
    """Return a lifetime with a deadline at a time after the start."""
    return Lifetime(expires_at=START + round(seconds * 1000), expires_at_text="then")


class ExpirySuite(StoreCase):
    """TTL, Expires-At, pins and sweeps, exact to the millisecond."""

    def assertEndsAfter(self, seconds: float, path: str = "a") -> None:
        """Assert that a stream expires after a duration; the check is no access."""
        self.sleep(seconds - 0.001)
        self.state_of(path)
        self.sleep(0.001)
        self.assertGone(path)

    def test_ttl(self) -> None:
        """An idle stream is gone for all requests after its TTL."""
        self.created(put(lifetime=TWO_SECONDS))
        self.assertEndsAfter(2)

    def test_expires_at(self) -> None:
        """A deadline ends a stream regardless of accesses."""
        self.created(put(lifetime=until(3)))
        self.sleep(2)
        self.appended(post(b"x"))
        self.read()
        stream_id = self.state_of().id
        self.store.pin(stream_id)
        self.sleep(0.5)
        self.appended(post(closed=True))
        self.assertEndsAfter(0.5)
        self.store.unpin(stream_id)
        self.assertGone()

    def test_wall_clock_set_forward(self) -> None:
        """A TTL is unaffected; a deadline passes earlier."""
        self.created(put("ttl", lifetime=TWO_SECONDS))
        self.created(put("date", lifetime=until(1800)))
        self.lead = 3_600_000
        self.assertGone("date")
        self.sweep(self.store)
        self.state_of("ttl")
        self.assertEndsAfter(2, "ttl")

    def test_wall_clock_set_back(self) -> None:
        """A TTL is unaffected; a deadline passes later."""
        self.created(put("ttl", lifetime=TWO_SECONDS))
        self.created(put("date", lifetime=until(10)))
        self.lead = -3_600_000
        self.assertEndsAfter(2, "ttl")
        self.sleep(3600)
        self.sweep(self.store)
        self.state_of("date")
        self.assertEndsAfter(8, "date")
        self.sweep(self.store)
        self.assertGone("date")

    def test_no_time_at_all(self) -> None:
        """A TTL of 0 ends the stream at once."""
        self.created(put(raw=b"x", lifetime=Lifetime(ttl=0)))
        self.assertGone()
        self.created(put())

    def test_for_ever(self) -> None:
        """A stream without a lifetime does not expire."""
        self.created(put())
        self.sleep(10**9)
        self.sweep(self.store)
        self.assertEqual(self.content(), b"")

    def test_what_resets_a_ttl(self) -> None:
        """Reads and writes of all kinds restart a TTL, empty reads and closes included."""
        for number, touch in enumerate(
            (
                lambda path: self.read(path=path),
                lambda path: self.read(2, path=path),
                lambda path: self.read(NOW, path=path),
                lambda path: self.read(5, path=path),
                lambda path: self.appended(post(b"x", path)),
                lambda path: self.appended(post(b"x", path, producer=("p", 0, 0))),
                lambda path: self.appended(post(path=path, closed=True)),
                lambda path: self.appended(post(path=path, closed=True, producer=("p", 0, 0))),
            )
        ):
            path = f"s{number}"
            self.created(put(path, raw=b"hello", lifetime=TWO_SECONDS))
            for _ in range(3 if number < 6 else 1):
                self.sleep(1.5)
                if number == 5:
                    # A new producer each time, because a duplicate batch is not a write.
                    seq = self.now - START
                    self.appended(post(b"x", path, producer=(f"p{seq}", 0, 0)))
                else:
                    touch(path)
            self.assertEndsAfter(2, path)

    def test_what_does_not(self) -> None:
        """Reading the state and refused requests do not restart a TTL."""
        self.created(put("a", JSON, b"1", TWO_SECONDS))
        self.sleep(1)
        self.state_of()
        self.assertEqual(
            self.submit(put("a", JSON, b"", TWO_SECONDS)), Created(self.state_of(), fresh=False)
        )
        self.assertRefused(Problem.STREAM_EXISTS, self.submit(put()))
        self.assertRefused(Problem.CONTENT_TYPE_MISMATCH, self.submit(post(b"x")))
        self.assertRefused(Problem.INVALID_JSON, self.submit(post(b"{", content_type=JSON)))
        self.assertEndsAfter(1)

    def test_a_closed_stream_too(self) -> None:
        """Closed streams expire, and reads restart their TTL."""
        self.created(put(raw=b"x", lifetime=TWO_SECONDS, closed=True))
        self.sleep(1)
        self.read()
        self.assertEndsAfter(2)

    def test_a_long_ttl(self) -> None:
        """A TTL of a century works."""
        self.created(put(lifetime=Lifetime(ttl=100 * 366 * 24 * 3600)))
        self.sleep(99 * 366 * 24 * 3600)
        self.sweep(self.store)
        self.state_of()

    def test_a_new_one(self) -> None:
        """The path of an expired stream is free, swept or not."""
        for swept in (False, True):
            first = self.created(put(raw=b"old", lifetime=TWO_SECONDS))
            self.appended(post(b"x", seq=b"9", producer=("p", 5, 0)))
            self.sleep(2)
            if swept:
                self.sweep(self.store)
            second = self.created(put("a", JSON, b"1", Lifetime(ttl=2)))
            self.assertGreater(second.id, first.id)
            self.assertEqual(self.messages(), (b"1",))
            self.appended(post(b"2", content_type=JSON, seq=b"1", producer=("p", 0, 0)))
            self.sleep(1.5)
            self.sweep(self.store)
            self.assertEqual(self.messages(), (b"1", b"2"))
            self.deleted()

    def test_pinned(self) -> None:
        """Pins keep a stream; the TTL restarts at the last unpin."""
        stream_id = self.created(put(lifetime=TWO_SECONDS)).id
        self.store.pin(stream_id)
        self.store.pin(stream_id)
        self.sleep(100)
        self.sweep(self.store)
        self.state_of()
        self.store.unpin(stream_id)
        self.sleep(100)
        self.sweep(self.store)
        self.state_of()
        self.store.unpin(stream_id)
        self.assertEndsAfter(2)

    def test_pinned_and_gone(self) -> None:
        """Unpinning a deleted stream does not restore it."""
        stream_id = self.created(put(lifetime=TWO_SECONDS)).id
        self.store.pin(stream_id)
        self.deleted()
        self.assertGone()
        second = self.created(put(lifetime=TWO_SECONDS))
        self.sleep(1)
        self.store.unpin(stream_id)
        self.assertNotEqual(second.id, stream_id)
        self.assertEndsAfter(1)

    def test_sweep(self) -> None:
        """A sweep ends expired streams, each once, and no others."""
        commands: list[Create] = [
            put("ttl", lifetime=TWO_SECONDS),
            put("moment", lifetime=until(2)),
            put("read", raw=b"x", lifetime=TWO_SECONDS),
            put("written", lifetime=TWO_SECONDS),
            put("later", lifetime=until(3)),
            put("pinned", lifetime=TWO_SECONDS),
            put("never"),
        ]
        states = {command.path: self.created(command) for command in commands}
        self.store.pin(states["pinned"].id)
        self.sleep(1.5)
        self.read(path="read")
        written = self.appended(post(b"y", "written"))
        self.announced.clear()
        self.sweep(self.store)
        self.assertEqual(self.announced, [])
        self.sleep(0.5)
        self.sweep(self.store)
        ended = [change for changes in self.announced for change in changes]
        self.assertTrue(all(change.gone and not change.data for change in ended))
        self.assertEqual(sorted(change.state.path for change in ended), ["moment", "ttl"])
        for path in ("ttl", "moment"):
            self.assertGone(path)
        for path in ("read", "written", "later", "pinned", "never"):
            self.state_of(path)
        self.announced.clear()
        self.sleep(1)
        self.sweep(self.store)
        self.sweep(self.store)
        ended = [change for changes in self.announced for change in changes]
        self.assertEqual(sorted(change.state.path for change in ended), ["later"])
        self.sleep(0.5)
        self.sweep(self.store)
        ended = [change for changes in self.announced for change in changes]
        self.assertEqual(
            sorted(change.state.path for change in ended), ["later", "read", "written"]
        )
        self.assertEqual(ended[-1].state.id in (states["read"].id, written.id), True)
        self.store.unpin(states["pinned"].id)

    def test_sweep_again_and_again(self) -> None:
        """Sweeps do not end a stream in use."""
        self.created(put(lifetime=TWO_SECONDS))
        for _ in range(10):
            self.sleep(1)
            self.appended(post(b"x"))
            self.sleep(0.9)
            self.sweep(self.store)
        self.assertEqual(self.content(), b"x" * 10)
        self.sleep(2)
        self.sweep(self.store)
        self.assertGone()

    def test_many_end_at_once(self) -> None:
        """More streams expire than one step ends."""
        paths = [f"s{number}" for number in range(1100)]
        self.submit_all(*[put(path, lifetime=Lifetime(ttl=1)) for path in paths])
        self.created(put("b", lifetime=TWO_SECONDS))
        self.announced.clear()
        self.sleep(1)
        self.sweep(self.store)
        ended = [change.state.path for changes in self.announced for change in changes]
        self.assertEqual(sorted(ended), sorted(paths))
        self.assertGone("s1000")
        self.state_of("b")

    def test_restart(self) -> None:
        """Lifetimes and last accesses survive a restart."""
        self.created(put("written", lifetime=TWO_SECONDS))
        self.created(put("read", lifetime=TWO_SECONDS))
        self.created(put("idle", lifetime=TWO_SECONDS))
        self.created(put("moment", lifetime=until(3)))
        self.sleep(1.5)
        self.appended(post(b"x", "written"))
        self.read(path="read")
        self.restart()
        self.assertEqual(self.state_of("moment").lifetime, until(3))
        self.sleep(0.5)
        self.assertGone("idle")
        self.sleep(0.999)
        self.state_of("moment")
        self.sleep(0.001)
        self.assertGone("moment")
        self.sleep(0.499)
        for path in ("written", "read"):
            self.state_of(path)
        self.sleep(0.001)
        for path in ("written", "read"):
            self.assertGone(path)
        self.announced.clear()
        self.sweep(self.store)
        # A refused request may have ended and announced them already.
        ended = {change.state.path for changes in self.announced for change in changes}
        self.assertLessEqual(ended, {"written", "read", "idle", "moment"})
