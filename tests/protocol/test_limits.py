"""Tests of `durable_streams_tw.protocol.limits`: bounds that have to fit each other."""

from __future__ import annotations

from durable_streams_tw.live.limits import (
    SSE_COMMENT_INTERVAL,
    SSE_RECONNECT_INTERVAL,
)
from durable_streams_tw.protocol import limits
from durable_streams_tw.storage.limits import MAX_RECORD, MERGE_RECORD, RECORD_PAYLOAD
from tests.protocol.refusing import RefusingTestCase


class LimitsTests(RefusingTestCase):
    """One bound must not make another one wrong."""

    def test_all_are_bounds(self) -> None:
        """Every number is positive, and nothing else is in the module but one name."""
        values = {name: value for name, value in vars(limits).items() if name.isupper()}
        self.assertEqual(values.pop("RESERVED_SEGMENT"), "__ds")
        for name, value in values.items():
            self.assertIsInstance(value, (int, float), name)
            self.assertGreater(value, 0, name)

    def test_records_hold_payload(self) -> None:
        """Records hold payload, and merging never fills one."""
        self.assertLess(RECORD_PAYLOAD, MAX_RECORD)
        self.assertLess(MERGE_RECORD, RECORD_PAYLOAD)
        self.assertLessEqual(limits.MAX_UNDIVIDED_BODY, RECORD_PAYLOAD)

    def test_messages_of_a_record_are_judged(self) -> None:
        """A record holds fewer messages (two bytes each) than JSON mode takes."""
        self.assertLess(RECORD_PAYLOAD // 2, limits.MAX_JSON_MESSAGES)

    def test_positions_are_exact(self) -> None:
        """Offsets have sixteen digits; what is appended to the largest stream is refused."""
        self.assertEqual(len(str(limits.MAX_POSITION)), 16)
        self.assertEqual(limits.MAX_SAFE_INTEGER, 2**53 - 1)

    def test_a_ttl_is_no_overflow(self) -> None:
        """A deadline fits eight bytes of milliseconds for a long time."""
        self.assertLess(limits.MAX_TTL * 1000 + 10**14, 2**63)

    def test_times(self) -> None:
        """A silent SSE connection gets a comment before it is asked to reconnect."""
        self.assertLess(SSE_COMMENT_INTERVAL, SSE_RECONNECT_INTERVAL)
        self.assertLessEqual(limits.CURSOR_INTERVAL, limits.CURSOR_MAX_JITTER)
