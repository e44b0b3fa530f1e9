"""Tests of `durable_streams_tw.storage.access_times`."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from durable_streams_tw.storage.access_times import AccessTimes


class AccessTimesTests(SynchronousTestCase):
    """Access times that are not written yet."""

    def setUp(self) -> None:
        self.access = AccessTimes()

    def test_unknown(self) -> None:
        """Without accesses the last access is 0."""
        self.assertEqual(self.access.last_access(1, 100), 0)
        self.assertEqual(self.access.take_unwritten(100), {})

    def test_noted(self) -> None:
        """The last access of each stream counts."""
        self.access.record(1, 100)
        self.access.record(2, 150)
        self.access.record(1, 200)
        self.assertEqual(self.access.last_access(1, 300), 200)
        self.assertEqual(self.access.last_access(2, 300), 150)

    def test_taken_once(self) -> None:
        """Taken access times are still known, and not taken twice."""
        self.access.record(1, 100)
        self.access.record(2, 150)
        self.assertEqual(self.access.take_unwritten(300), {1: 100, 2: 150})
        self.assertEqual(self.access.take_unwritten(300), {})
        self.assertEqual(self.access.last_access(1, 300), 100)
        self.access.record(2, 310)
        self.assertEqual(self.access.take_unwritten(320), {2: 310})

    def test_pinned(self) -> None:
        """A pinned stream is accessed now."""
        self.access.pin(1)
        for now in (100, 200):
            self.assertEqual(self.access.last_access(1, now), now)
            self.assertEqual(self.access.take_unwritten(now), {1: now})

    def test_pins_add_up(self) -> None:
        """The last unpin ends the pin, and each unpin is an access."""
        self.access.pin(1)
        self.access.pin(1)
        self.access.unpin(1, 100)
        self.assertEqual(self.access.last_access(1, 500), 500)
        self.access.unpin(1, 600)
        self.assertEqual(self.access.last_access(1, 900), 600)
        self.assertEqual(self.access.take_unwritten(900), {1: 600})

    def test_forgotten(self) -> None:
        """A forgotten stream leaves no entries."""
        self.access.record(1, 100)
        self.access.forget(1)
        self.access.forget(2)
        self.assertEqual(self.access.last_access(1, 200), 0)
        self.assertEqual(self.access.take_unwritten(200), {})

    def test_forgotten_while_pinned(self) -> None:
        """Unpins after the end of a stream leave no entries."""
        self.access.pin(1)
        self.access.pin(1)
        self.access.record(1, 100)
        self.access.forget(1)
        self.assertEqual(self.access.take_unwritten(150), {})
        self.access.unpin(1, 200)
        self.access.unpin(1, 300)
        self.assertEqual(self.access.last_access(1, 400), 0)
        self.assertEqual(self.access.take_unwritten(400), {})

    def test_settled(self) -> None:
        """Written access times that have not changed since are discarded."""
        self.access.record(1, 100)
        self.access.record(2, 150)
        self.access.record(3, 170)
        taken = self.access.take_unwritten(200)
        self.access.record(2, 250)
        self.access.record(3, 170)
        self.access.discard_written(taken)
        self.access.discard_written({4: 100})
        self.assertEqual(
            [self.access.last_access(number, 300) for number in (1, 2, 3)], [0, 250, 170]
        )
        self.assertEqual(self.access.take_unwritten(300), {2: 250, 3: 170})
        self.access.discard_written({2: 249, 3: 170})
        self.assertEqual([self.access.last_access(number, 300) for number in (2, 3)], [250, 0])

    def test_given_back(self) -> None:
        """Restored access times are taken again with their newest value."""
        for number in (1, 2, 3):
            self.access.record(number, 100)
        taken = self.access.take_unwritten(200)
        self.access.record(2, 250)
        self.access.forget(3)
        self.access.restore(taken)
        self.assertEqual(self.access.take_unwritten(300), {1: 100, 2: 250})

    def test_pinned_again_after_the_end(self) -> None:
        """Pins after the end of a stream leave no entries."""
        self.access.pin(1)
        self.access.forget(1)
        self.access.pin(1)
        self.access.unpin(1, 200)
        self.access.unpin(1, 300)
        # A pin after the end would count as a new stream.
        self.access.pin(1)
        self.access.unpin(1, 400)
        self.assertEqual(self.access.last_access(1, 500), 400)

    def test_without_a_pin(self) -> None:
        """Unpinning a stream that is not pinned raises."""
        self.assertRaises(KeyError, self.access.unpin, 1, 100)
