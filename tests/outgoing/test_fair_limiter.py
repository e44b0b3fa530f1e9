"""Tests of `durable_streams_tw.outgoing.fair_limiter`."""

from __future__ import annotations

from twisted.internet.defer import CancelledError, Deferred
from twisted.trial.unittest import SynchronousTestCase

from durable_streams_tw.outgoing.fair_limiter import FairLimiter, Slot, group_of


class FairLimiterTests(SynchronousTestCase):
    """Limiter of six slots: at most three for each group, two reserved for prompt hosts."""

    def setUp(self) -> None:
        self.limiter = FairLimiter(total=6, share=3, kept=2, remembered=10)

    def enter(self, *hosts: str) -> list[Deferred[Slot]]:
        return [self.limiter.enter(host) for host in hosts]

    def leave(self, entered: Deferred[Slot], prompt: bool = False) -> None:
        self.limiter.leave(self.successResultOf(entered), prompt=prompt)

    def assertFired(self, entered: list[Deferred[Slot]], expected: str) -> None:
        """Assert the state of each Deferred: 1 in ``expected`` for fired, 0 for waiting."""
        self.assertEqual("".join(str(int(one.called)) for one in entered), expected)

    def test_share(self) -> None:
        """Hosts of one domain share a limit, and other domains do not wait for them."""
        entered = self.enter("a.x.example", "b.x.example", "x.example", "c.x.example", "y.test")
        self.assertFired(entered, "11101")
        self.leave(entered[1])
        self.assertFired(entered, "11111")
        self.assertEqual((self.limiter.running, self.limiter.waiting), (4, 0))

    def test_reserved_slots(self) -> None:
        """Unknown hosts leave the reserved slots to hosts that were prompt."""
        (first,) = self.enter("good.example")
        self.leave(first, prompt=True)
        entered = self.enter("a.one", "a.two", "a.three", "a.four", "a.five")
        self.assertFired(entered, "11110")
        good = self.enter("good.example", "good.example", "good.example")
        self.assertFired(good, "110")
        self.leave(good[0], prompt=True)
        self.assertFired(good, "111")
        self.assertFired(entered, "11110")

    def test_prompt_no_longer(self) -> None:
        (first,) = self.enter("good.example")
        self.leave(first, prompt=True)
        self.assertTrue(self.limiter.is_prompt("good.example"))
        (second,) = self.enter("good.example")
        self.leave(second)
        self.assertFalse(self.limiter.is_prompt("good.example"))

    def test_groups_take_turns(self) -> None:
        """Groups take turns, so a long queue of one does not delay another."""
        self.limiter = FairLimiter(total=1, share=1, kept=0, remembered=10)
        entered = self.enter("a.b.x", "a.b.y", "b.b.y", "c.b.y", "a.b.z")
        self.assertFired(entered, "10000")
        for place, expected in ((0, "11000"), (1, "11001"), (4, "11101"), (2, "11111")):
            self.leave(entered[place])
            self.assertFired(entered, expected)

    def test_unknown_hosts_get_slots(self) -> None:
        """A sequence of prompt hosts does not keep unknown hosts waiting forever."""
        self.limiter = FairLimiter(total=1, share=1, kept=0, remembered=10)
        (first,) = self.enter("good.example")
        self.leave(first, prompt=True)
        entered = self.enter("good.example", *["good.example"] * 5, "new.test")
        for _ in range(3):
            running = [one for one in entered[:6] if one.called][-1]
            self.leave(running, prompt=True)
            if entered[6].called:
                break
        self.assertTrue(entered[6].called)

    def test_cancelled(self) -> None:
        """A cancelled waiter leaves the queue."""
        entered = self.enter("a.x", "a.x", "a.x", "a.x", "a.x")
        entered[3].cancel()
        self.failureResultOf(entered[3], CancelledError)
        self.leave(entered[0])
        self.assertTrue(entered[4].called)
        self.assertEqual(self.limiter.waiting, 0)

    def test_no_recursion(self) -> None:
        """Thousands of slots that are returned at once do not recurse."""
        self.limiter = FairLimiter(total=1, share=1, kept=0, remembered=10)
        (first,) = self.enter("a.x")
        for number in range(5000):
            (entered,) = self.enter(f"{number}.x")
            entered.addCallback(lambda slot: self.limiter.leave(slot, prompt=False))
        self.leave(first)
        self.assertEqual((self.limiter.running, self.limiter.waiting), (0, 0))

    def test_groups(self) -> None:
        for host, group in (
            ("a.b.example.org", "example.org"),
            ("example.org", "example.org"),
            ("localhost", "localhost"),
            ("localhost:3000", "localhost:3000"),
            ("93.184.216.34", "93.184.216.34"),
            ("", ""),
        ):
            self.assertEqual(group_of(host), group)
