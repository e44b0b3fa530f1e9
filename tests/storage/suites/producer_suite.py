"""What every store does to remember a bounded number of producers. How to use it is said in
`tests.storage.store_case`."""

from __future__ import annotations

from durable_streams_tw.protocol.errors import Problem
from durable_streams_tw.protocol.streams.outcomes import Appended
from tests.storage.store_case import StoreCase, post, put

MOST = 3
"""How many producers a stream of these tests remembers at least."""


class ProducerSuite(StoreCase):
    """Stores with ``max_producers=MOST``."""

    def setUp(self) -> None:
        super().setUp()
        self.submit(put())

    def known(self, name: str, seq: int = 0) -> bool:
        """Whether a batch is known to be a duplicate; one that is not is appended."""
        outcome = self.submit(post(b"x", producer=(name, 0, seq)))
        assert isinstance(outcome, Appended), outcome
        return outcome.duplicate

    def test_those_that_appended_last(self) -> None:
        """At least so many are remembered, however many there were before."""
        for number in range(50):
            self.assertFalse(self.known(f"p{number}"))
            for before in range(max(0, number - MOST + 1), number + 1):
                # A duplicate does not count as an append.
                self.assertTrue(self.known(f"p{before}"), (number, before))
        self.assertFalse(self.known("p10"))

    def test_one_that_goes_on(self) -> None:
        """It is remembered for as long as it appends before so many others have."""
        for number in range(30):
            self.assertFalse(self.known("steady", number))
            self.assertTrue(self.known("steady", number))
            self.known(f"p{number}")
        self.assertTrue(self.known("steady", 0))

    def test_forgotten(self) -> None:
        """It is a new one: of any epoch, and with sequence 0."""
        self.submit(post(b"x", producer=("p", 5, 0)))
        self.assertRefused(Problem.STALE_EPOCH, self.submit(post(b"x", producer=("p", 4, 0))))
        for number in range(2 * MOST):
            self.known(f"p{number}")
        outcome = self.submit(post(b"x", producer=("p", 5, 1)))
        self.assertRefused(Problem.SEQUENCE_GAP, outcome)
        self.assertFalse(self.known("p"))
        self.assertTrue(self.known("p"))

    def test_in_one_batch(self) -> None:
        """Whatever the commands of a batch do to each other's producers."""
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
