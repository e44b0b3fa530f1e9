"""Tests of malformed requests on the HTTP/1.1 engine, the twisted.web site, HTTP/2 and h11."""

from __future__ import annotations

from collections import Counter
from random import Random

from twisted.trial.unittest import SynchronousTestCase

from durable_streams_tw.http.messages import Request
from tests.http.malformed import servers
from tests.http.malformed.builders import get
from tests.http.malformed.servers import Row
from tests.http.malformed.table import ROWS

#: Longer rows are split at a few positions only.
LONG = 600
CUTS = 4


def cuts(row: Row) -> list[list[bytes]]:
    """Return the row's bytes split: every byte alone, and in two at several places."""
    data = row.data
    random = Random(row.name)
    if len(data) <= LONG:
        places = list(range(1, len(data), max(1, len(data) // 4)))
        pieces = [[data[index : index + 1] for index in range(len(data))]]
    else:
        places = sorted(random.sample(range(1, len(data)), CUTS))
        pieces = [[data[index : index + 97] for index in range(0, len(data), 97)]]
    return pieces + [[data[:place], data[place:]] for place in places]


class TableTests(SynchronousTestCase):
    """Consistency of the table."""

    def test_large_enough(self) -> None:
        """There are many rows, with different names."""
        self.assertGreaterEqual(len(ROWS), 300)
        for column in ("name", "data"):
            twice = [
                key
                for key, count in Counter(getattr(row, column) for row in ROWS).items()
                if count > 1
            ]
            self.assertEqual(twice, [])

    def test_reasons(self) -> None:
        """A row says why a server executes another number of requests."""
        for row in ROWS:
            other = (row.tree, row.h11) != (None, None)
            self.assertEqual(bool(row.because), other, row.name)


class Http1EngineTests(SynchronousTestCase):
    """The HTTP/1.1 engine."""

    def check(self, row: Row, pieces: list[bytes], *, after: bool = False) -> list[Request]:
        """Assert that pieces of a row have its result; ``after``: a valid request follows."""
        outcome = servers.at_http1(pieces)
        served = after and row.kept
        self.assertEqual(
            (outcome.statuses, len(outcome.requests), outcome.kept),
            (row.statuses + (200,) * served, row.executed + served, row.kept),
            (row.name, pieces[:3]),
        )
        return outcome.requests

    def test_in_pieces(self) -> None:
        """Every row, split: the same result and the same requests."""
        for row in ROWS:
            whole = self.check(row, [row.data])
            for pieces in cuts(row):
                self.assertEqual(self.check(row, pieces), whole, row.name)

    def test_followed_by_a_request(self) -> None:
        """A valid request after a row is executed exactly if the connection stays open."""
        for row in ROWS:
            if not row.open:
                self.check(row, [row.data + get()], after=True)
                self.check(row, [row.data, get()], after=True)


class OtherReadersTests(SynchronousTestCase):
    """Rows of the table on the other servers."""

    def test_tree(self) -> None:
        """The twisted.web site sends the same responses, in any pieces."""
        for row in ROWS:
            if row.tree is not None:
                self.assertEqual(
                    len(servers.at_twisted_web([row.data]).requests), row.tree, row.name
                )
                continue
            fast = servers.at_http1([row.data])
            for pieces in ([row.data], *cuts(row)[:2]):
                tree = servers.at_twisted_web(pieces)
                self.assertEqual(
                    (tree.statuses, tree.problems, len(tree.requests)),
                    (fast.statuses, fast.problems, row.executed),
                    (row.name, pieces[:3]),
                )

    def test_http2(self) -> None:
        """HTTP/2 sends the same responses to all rows that it can express."""
        said = 0
        for row in ROWS:
            translated = servers.as_http2(row)
            if translated is None:
                continue
            said += 1
            fast = servers.at_http1([row.data])
            other = servers.at_http2(*translated)
            self.assertEqual(
                (other.statuses, other.problems, len(other.requests)),
                (fast.statuses, fast.problems, row.executed),
                row.name,
            )
            self.assertTrue(other.kept, row.name)
        self.assertGreater(said, 240)

    def test_h11(self) -> None:
        """Every executed request is one for h11 too."""
        for row in ROWS:
            found = servers.at_h11(row.data)
            if row.h11 is None:
                self.assertGreaterEqual(found, row.executed, row.name)
            else:
                self.assertEqual(found, row.h11, row.name)
