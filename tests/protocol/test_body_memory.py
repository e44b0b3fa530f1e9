"""Tests of the memory that framing a body takes: a bounded multiple of its size."""

from __future__ import annotations

import tracemalloc

from twisted.trial.unittest import SynchronousTestCase

from durable_streams_tw.protocol.limits import MAX_JSON_MESSAGES, MIB
from durable_streams_tw.protocol.streams import bodies

SIZE = 2 * MIB

#: Maximum memory of framing, as a multiple of the body's size (without the body itself), and in
#: bytes per accepted message.
MOST = 6
PER_MESSAGE = 150


def _array(message: bytes, count: int) -> bytes:
    return b"[" + b",".join([message] * count) + b"]"


BOMBS = {
    "too many messages": _array(b"1", SIZE // 2),
    "too many empty arrays": _array(b"[]", SIZE // 3),
    "as many messages as there may be": _array(
        b'"%s"' % (b"x" * (SIZE // MAX_JSON_MESSAGES - 3)), MAX_JSON_MESSAGES - 1
    ),
    "one message of many values": b"[" + _array(b"1", SIZE // 2) + b"]",
    "brackets": b"[" * (SIZE // 2) + b"]" * (SIZE // 2),
    "open brackets": b"[" * SIZE,
    "objects": b'{"a":' * (SIZE // 6) + b"1" + b"}" * (SIZE // 6),
    "escapes": b'["' + b"\\u0041" * (SIZE // 6) + b'"]',
    "lone surrogates": b'["' + b"\\ud800" * (SIZE // 6) + b'"]',
    "backslashes": b'["' + b"\\\\" * (SIZE // 2) + b'"]',
    "white space": b" " * SIZE + b"1",
    "one string": b'"' + b"x" * SIZE + b'"',
    "other alphabets": '"{}"'.format("\U0001f600" * (SIZE // 4)).encode(),
    "broken UTF-8": b'"' + b"\xff" * SIZE + b'"',
    "one long number": b"1" * SIZE,
}


class BodyMemoryTests(SynchronousTestCase):
    """JSON bodies with much overhead."""

    def test_bombs(self) -> None:
        """The peak is bounded for accepted and for refused bodies."""
        tracemalloc.start()
        self.addCleanup(tracemalloc.stop)
        peaks = {}
        for name, body in BOMBS.items():
            tracemalloc.reset_peak()
            before, _ = tracemalloc.get_traced_memory()
            framed = bodies.appended("application/json", body)
            _, peak = tracemalloc.get_traced_memory()
            peaks[name] = (peak - before - PER_MESSAGE * len(framed.cuts)) / len(body)
        worst = {name: round(peak, 1) for name, peak in peaks.items() if peak > MOST}
        self.assertEqual(worst, {})
