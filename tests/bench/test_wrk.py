"""Tests of `bench.wrk`."""

from __future__ import annotations

import json

from bench.wrk import BadLoad, Load, parse
from twisted.trial.unittest import SynchronousTestCase

GOOD = {
    "requests": 109_744,
    "microseconds": 2_000_000,
    "bytes": 20_851_360,
    "status": 0,
    "connect": 0,
    "read": 0,
    "write": 0,
    "timeout": 0,
    "p50": 553,
    "p99": 1_250,
}
BEFORE = """\
Running 2s test @ http://127.0.0.1:4437/v1/stream/one
  1 threads and 64 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency   593.54us  183.90us   4.80ms   88.53%
    Req/Sec    55.16k     2.53k   58.71k    85.00%
  109744 requests in 2.00s, 19.89MB read
Requests/sec:  54871.81
Transfer/sec:      9.94MB
"""


def output_of(**more: int) -> str:
    """Return the output of wrk with these counts."""
    return BEFORE + json.dumps(GOOD | more) + "\n"


class ParseTests(SynchronousTestCase):
    """`parse` reads the last line, which is JSON."""

    def test_success(self) -> None:
        """A load has seconds, milliseconds, and the share of one core."""
        load = parse(output_of(), cpu_seconds=1.5)
        self.assertEqual(load, Load(109_744, 2.0, 20_851_360, 0.553, 1.25, 0.75))
        self.assertEqual(load.rate, 54_872.0)

    def test_errors(self) -> None:
        """Every kind of error raises `BadLoad`, with its count."""
        for kind in ("status", "connect", "read", "write", "timeout"):
            error = self.assertRaises(BadLoad, parse, output_of(**{kind: 7}))
            self.assertIn("7 ", str(error))
            self.assertIn("of 109744 requests", str(error))

    def test_several_errors(self) -> None:
        """Several kinds of errors are all in the message."""
        error = self.assertRaises(BadLoad, parse, output_of(status=3, timeout=4))
        self.assertIn("3 statuses above 399, 4 responses later", str(error))

    def test_no_requests(self) -> None:
        """A run without responses raises `BadLoad`."""
        self.assertRaises(BadLoad, parse, output_of(requests=0))

    def test_no_result(self) -> None:
        """Output without JSON raises `BadLoad` with its end."""
        error = self.assertRaises(BadLoad, parse, "unable to connect to 127.0.0.1:1\n")
        self.assertIn("unable to connect", str(error))
