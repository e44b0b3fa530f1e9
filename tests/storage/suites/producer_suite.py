"""Suite: bounded number of producers per stream. `tests.storage.store_case` explains its use."""

from __future__ import annotations

from durable_streams_tw.protocol.errors import Problem
from durable_streams_tw.protocol.streams.outcomes import Appended
from tests.storage.store_case import StoreCase, post, put

MOST = 3
"""Producers that each stream of these tests remembers."""


class ProducerSuite(StoreCase):
    """Tests of a store with ``max_producers=MOST``."""

    def setUp(self) -> None:
        super().setUp()
        self.submit(put())

    def known(self, name: str, seq: int = 0) -> bool:
        """Return True if a batch is a duplicate; append it otherwise."""
        outcome = self.submit(post(b"x", producer=(name, 0, seq)))
        assert isinstance(outcome, Appended), outcome
        return outcome.duplicate

    def test_those_that_appended_last(self) -> None:
        """At least the newest ``max_producers`` producers are known, however many there were."""
        for number in range(50):
            self.assertFalse(self.known(f"p{number}"))
            for before in range(max(0, number - MOST + 1), number + 1):
                # A duplicate does not count as an append.
                self.assertTrue(self.known(f"p{before}"), (number, before))
        self.assertFalse(self.known("p10"))

    def test_one_that_goes_on(self) -> None:
        """A producer is known as long as it appends before ``max_producers`` others have."""
        for number in range(30):
            self.assertFalse(self.known("steady", number))
            self.assertTrue(self.known("steady", number))
            self.known(f"p{number}")
        self.assertTrue(self.known("steady", 0))

    def test_forgotten(self) -> None:
        """A forgotten producer counts as new: any epoch, sequence 0."""
        self.submit(post(b"x", producer=("p", 5, 0)))
        self.assertRefused(Problem.STALE_EPOCH, self.submit(post(b"x", producer=("p", 4, 0))))
        for number in range(2 * MOST):
            self.known(f"p{number}")
        outcome = self.submit(post(b"x", producer=("p", 5, 1)))
        self.assertRefused(Problem.SEQUENCE_GAP, outcome)
        self.assertFalse(self.known("p"))
        self.assertTrue(self.known("p"))

    def test_in_one_batch(self) -> None:
        """The commands of one batch are affected by each other's producers."""
        self.submit_all(*[post(b"x", producer=(f"p{number}", 0, 0)) for number in range(40)])
        for number in range(40 - MOST, 40):
            self.assertTrue(self.known(f"p{number}"))
        self.assertFalse(self.known("p0"))

    def test_after_a_restart(self) -> None:
        for number in range(20):
            self.known(f"p{number}")
        self.restart()
        for number in range(20 - MOST, 20):
            self.assertTrue(self.known(f"p{number}"))
        self.assertFalse(self.known("p0"))

    def test_long_names(self) -> None:
        for number in range(10):
            self.known(f"{number}" * 1000)
        self.restart()
        self.assertTrue(self.known("9" * 1000))
        self.assertFalse(self.known("0" * 1000))

    def test_streams_do_not_share(self) -> None:
        self.submit(put("b"))
        self.known("p")
        for number in range(20):
            self.submit(post(b"x", "b", producer=(f"p{number}", 0, 0)))
        self.assertTrue(self.known("p"))
