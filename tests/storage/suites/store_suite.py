"""Suite of all tests that each store must pass; `tests.storage.store_case` explains its use."""

from __future__ import annotations

from tests.storage.suites.expiry_suite import ExpirySuite
from tests.storage.suites.incarnation_suite import IncarnationSuite
from tests.storage.suites.listing_suite import ListingSuite
from tests.storage.suites.model_suite import ModelSuite
from tests.storage.suites.notification_suite import NotificationSuite
from tests.storage.suites.reading_suite import ReadingSuite
from tests.storage.suites.writing_suite import WritingSuite


class StoreSuite(
    WritingSuite,
    ReadingSuite,
    ExpirySuite,
    NotificationSuite,
    ListingSuite,
    IncarnationSuite,
    ModelSuite,
):
    """All suites."""
