"""Tests of requests with many acks, whose message boundaries are checked outside of the
committer.
"""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from durable_streams_tw.protocol.errors import Problem
from durable_streams_tw.protocol.streams.state import StreamState
from durable_streams_tw.protocol.subscriptions.commands import DeliveryResult
from durable_streams_tw.storage.durable import reader
from durable_streams_tw.storage.durable.store import DurableStore
from durable_streams_tw.storage.durable.transaction import BatchTransaction
from durable_streams_tw.storage.shared import queued_store
from tests.storage.durable.store_case import DurableStoreCase
from tests.storage.store_case import JSON, post, put
from tests.storage.suites.subscription_suite import SubscriptionCase, SubscriptionSuite, subscribe

_COUNT = 30


class CheckedSuiteTests(SubscriptionSuite, DurableStoreCase, SynchronousTestCase):
    """Subscription suite with every ack checked in advance."""

    def setUp(self) -> None:
        super().setUp()
        self.patch(queued_store, "INLINE_ACKS", 0)


class ManyAcksTests(SubscriptionCase, DurableStoreCase, SynchronousTestCase):
    """A subscription with many pending JSON streams."""

    store: DurableStore

    def setUp(self) -> None:
        super().setUp()
        self.paths = [f"events/{number:02}" for number in range(_COUNT)]
        self.looked: list[int] = []
        boundary = BatchTransaction.is_boundary

        def counted(transaction: BatchTransaction, state: StreamState, position: int) -> bool:
            self.looked.append(position)
            return boundary(transaction, state, position)

        self.patch(BatchTransaction, "is_boundary", counted)

    def pending(self, wake_stream: str | None) -> None:
        """Append to all streams."""
        if wake_stream is not None:
            self.created(put(wake_stream, JSON))
        self.subscribed(subscribe(wake_stream=wake_stream))
        self.submit_all(*[put(path, JSON, b"[1,2,3]") for path in self.paths])

    def test_between_messages(self) -> None:
        """The transaction reads no stream."""
        self.pending("wake")
        state = self.claimed().state
        self.settled(self.ack(state, *[(path, 4) for path in self.paths], done=False))
        self.assertEqual(self.looked, [])
        self.assertEqual(set(self.cursors().values()), {4})

    def test_one_invalid_ack(self) -> None:
        """One invalid ack refuses the request, which changes nothing."""
        self.pending("wake")
        state = self.claimed().state
        acks = [(path, 4) for path in self.paths]
        for wrong in ((self.paths[7], 3), (self.paths[7], 99), ("none", 4)):
            command = self.ack(state, *acks[:7], wrong, *acks[8:], done=False)
            self.assertRefused(Problem.INVALID_OFFSET, self.submit(command))
        self.assertLessEqual(len(self.looked), 3)
        self.assertEqual(set(self.cursors().values()), {0})

    def test_fenced(self) -> None:
        """A request with a stale token is refused without a read of any stream."""
        self.pending("wake")
        old = self.claimed().state
        self.settled(self.release(old))
        self.patch(reader.ViewReader, "is_boundary", None)
        command = self.ack(old, *[(path, 4) for path in self.paths])
        self.assertRefused(Problem.FENCED, self.submit(command))

    def test_offsets_of_the_delivery(self) -> None:
        """A callback acknowledges the tails of its delivery, wherever they are now."""
        self.pending(None)
        state = self.stored()
        seen = [(path, 6) for path in self.paths]
        self.submit_all(*[post(b"[4]", path, JSON) for path in self.paths])
        self.looked.clear()
        self.settled(self.delivered(state, DeliveryResult.DONE, *seen))
        self.assertEqual(self.looked, [])
        self.assertEqual(set(self.cursors().values()), {6})
