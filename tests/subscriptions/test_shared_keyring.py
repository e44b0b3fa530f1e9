"""A server uses the keys that other nodes of its store have added."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.testing import MemoryReactorClock
from twisted.logger import capturedLogs, formatEvent
from twisted.trial.unittest import SynchronousTestCase

from durable_streams_tw.protocol.errors import Problem, Refusal
from durable_streams_tw.storage.errors import StoreUnusable
from durable_streams_tw.storage.memory.store import MemoryStore
from durable_streams_tw.subscriptions.keyring import Keyring
from durable_streams_tw.subscriptions.limits import KEY_REFRESH
from durable_streams_tw.subscriptions.service import Subscriptions


class Secret:
    """Row of a database with the keyring; `error` is what a read fails with."""

    place = "the secret"

    def __init__(self) -> None:
        self.content: bytes | None = None
        self.error: Refusal | Exception | None = None

    def update(self, change: Callable[[bytes | None], bytes | None]) -> None:
        self.content = change(self.content) or self.content

    def read(self) -> Deferred[Any]:
        if isinstance(self.error, Exception):
            return fail(self.error)
        return succeed(self.error or self.content)


class RefreshTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = MemoryReactorClock()
        self.secret = Secret()
        store: Any = MemoryStore(lambda: 0)
        unused: Any = None
        self.keyring = Keyring(None, lambda: 10_000.0, self.secret)
        self.subscriptions = Subscriptions(
            store,
            self.clock,
            now=lambda: 0,
            keyring=self.keyring,
            base=lambda: None,
            allow_local=lambda: False,
            caller=unused,
        )
        self.subscriptions.start()

    def published(self) -> int:
        return len(json.loads(self.keyring.jwks())["keys"])

    def test_key_of_another_node_is_published_within_a_minute(self) -> None:
        other = Keyring(None, lambda: 10_000.0, self.secret)
        other.open(rotate=True)
        self.assertEqual(self.published(), 1)
        self.clock.advance(KEY_REFRESH)
        self.assertEqual(self.published(), 2)
        self.assertEqual(self.keyring.secret, other.secret)

    def test_failed_refresh_is_repeated(self) -> None:
        Keyring(None, lambda: 10_000.0, self.secret).open(rotate=True)
        self.secret.error = Refusal(Problem.STORAGE_UNAVAILABLE, "away")
        self.clock.advance(KEY_REFRESH)
        self.secret.error = ZeroDivisionError()
        self.clock.advance(KEY_REFRESH)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        self.assertEqual(self.published(), 1)
        self.secret.error = None
        self.clock.advance(KEY_REFRESH)
        self.assertEqual(self.published(), 2)

    def test_lasting_failure_is_logged_once(self) -> None:
        """A file that is missing for minutes is one line, and another when it is back."""
        self.keyring.open(rotate=True)
        self.secret.error = StoreUnusable("could not read keys.json: No such file or directory")
        with capturedLogs() as events:
            for _ in range(3):
                self.clock.advance(KEY_REFRESH)
            (missing,) = map(formatEvent, events)
            self.assertEqual(self.published(), 2)
            self.secret.error = StoreUnusable("could not read keys.json: Permission denied")
            self.clock.advance(KEY_REFRESH)
            self.secret.error = None
            for _ in range(3):
                self.clock.advance(KEY_REFRESH)
        self.assertIn("keys.json: No such file", missing)
        self.assertEqual(
            [formatEvent(event).rpartition(":")[2] for event in events[1:]],
            [" Permission denied", "Webhook keys are read again from the secret"],
        )
        self.assertFalse([event for event in events if "log_failure" in event])

    def test_stopped_server_refreshes_nothing(self) -> None:
        self.successResultOf(self.subscriptions.stop())
        self.assertEqual(self.clock.getDelayedCalls(), [])
