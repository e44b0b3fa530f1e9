"""Tests of the ``limits`` modules: values that depend on each other."""

from __future__ import annotations

from types import ModuleType

from twisted.trial.unittest import SynchronousTestCase

from durable_streams_tw.auth import limits as auth
from durable_streams_tw.http import limits as http
from durable_streams_tw.live import limits as live
from durable_streams_tw.outgoing import limits as outgoing
from durable_streams_tw.protocol import limits as protocol
from durable_streams_tw.service import limits as service
from durable_streams_tw.storage import limits as storage
from durable_streams_tw.storage.engine import limits as engine
from durable_streams_tw.subscriptions import limits as subscriptions

MODULES: tuple[ModuleType, ...] = (
    *(auth, engine, http, live, outgoing, protocol, service, storage, subscriptions),
)


class LimitsTests(SynchronousTestCase):
    """No limit contradicts another one."""

    def test_values_are_positive_numbers(self) -> None:
        """``RESERVED_SEGMENT`` is the only constant that is not a number."""
        for module in MODULES:
            for name, value in vars(module).items():
                if name.isupper() and name != "RESERVED_SEGMENT":
                    self.assertIsInstance(value, (int, float), name)
                    self.assertGreater(value, 0, name)

    def test_largest_body_fits_the_queue_of_the_store(self) -> None:
        self.assertLessEqual(http.MAX_BODY, storage.MAX_QUEUE)

    def test_body_without_message_boundaries_fits_a_record(self) -> None:
        self.assertLess(storage.RECORD_PAYLOAD, storage.MAX_RECORD)
        self.assertLess(storage.MERGE_RECORD, storage.RECORD_PAYLOAD)
        self.assertLessEqual(protocol.MAX_UNDIVIDED_BODY, storage.RECORD_PAYLOAD)

    def test_record_holds_fewer_messages_than_json_mode_accepts(self) -> None:
        """A message takes at least two bytes."""
        self.assertLess(storage.RECORD_PAYLOAD // 2, protocol.MAX_JSON_MESSAGES)

    def test_positions_are_exact(self) -> None:
        self.assertEqual(len(str(protocol.MAX_POSITION)), 16)
        self.assertEqual(protocol.MAX_SAFE_INTEGER, 2**53 - 1)

    def test_deadlines_fit_eight_bytes(self) -> None:
        self.assertLess(protocol.MAX_TTL * 1000 + 10**14, 2**63)

    def test_idle_connection_outlives_a_long_poll(self) -> None:
        self.assertLess(live.LONG_POLL_TIMEOUT, http.IDLE_TIMEOUT)

    def test_sse_connection_gets_comments_before_it_reconnects(self) -> None:
        self.assertLess(live.SSE_COMMENT_INTERVAL, live.SSE_RECONNECT_INTERVAL)

    def test_cursor_jitter_is_at_least_one_interval(self) -> None:
        self.assertLessEqual(protocol.CURSOR_INTERVAL, protocol.CURSOR_MAX_JITTER)
