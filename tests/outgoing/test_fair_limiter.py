"""Who gets a slot when more want one than there are."""

from __future__ import annotations

from twisted.internet.defer import CancelledError, Deferred
from twisted.trial.unittest import SynchronousTestCase

from durable_streams_tw.outgoing.fair_limiter import FairLimiter, Slot, group_of


class FairLimiterTests(SynchronousTestCase):
    """Six slots, three for each group, two kept for prompt hosts."""

    def setUp(self) -> None:
        self.limiter = FairLimiter(total=6, share=3, kept=2, remembered=10)

    def enter(self, *hosts: str) -> list[Deferred[Slot]]:
        return [self.limiter.enter(host) for host in hosts]

    def leave(self, entered: Deferred[Slot], prompt: bool = False) -> None:
        self.limiter.leave(self.successResultOf(entered), prompt=prompt)

    def assertFired(self, entered: list[Deferred[Slot]], expected: str) -> None:
        """``expected`` has a 1 for each that has fired, a 0 for each that waits."""
        self.assertEqual("".join(str(int(one.called)) for one in entered), expected)

    def test_share(self) -> None:
        """Names of one domain are one group; another one does not wait for it."""
        entered = self.enter("a.x.example", "b.x.example", "x.example", "c.x.example", "y.test")
        self.assertFired(entered, "11101")
        self.leave(entered[1])
        self.assertFired(entered, "11111")
        self.assertEqual((self.limiter.running, self.limiter.waiting), (4, 0))

    def test_kept(self) -> None:
        """Hosts that nothing is known of leave some slots to those that were prompt."""
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

    def test_turns(self) -> None:
        """A group with many that wait does not hold up one with a few."""
        self.limiter = FairLimiter(total=1, share=1, kept=0, remembered=10)
        entered = self.enter("a.b.x", "a.b.y", "b.b.y", "c.b.y", "a.b.z")
        self.assertFired(entered, "10000")
        for place, expected in ((0, "11000"), (1, "11001"), (4, "11101"), (2, "11111")):
            self.leave(entered[place])
            self.assertFired(entered, expected)

    def test_both_kinds_go_on(self) -> None:
        """Prompt hosts that keep coming do not keep the others out."""
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
        """Who waits no longer has no place in the queue."""
        entered = self.enter("a.x", "a.x", "a.x", "a.x", "a.x")
        entered[3].cancel()
        self.failureResultOf(entered[3], CancelledError)
        self.leave(entered[0])
        self.assertTrue(entered[4].called)
        self.assertEqual(self.limiter.waiting, 0)

    def test_thousands_that_end_at_once(self) -> None:
        """Slots that are returned as soon as they are given do not nest."""
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
