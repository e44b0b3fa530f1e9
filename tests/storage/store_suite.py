"""Suite of all tests that each store must pass; `store_rig` explains its use."""

from __future__ import annotations

from tests.storage.expiry_suite import ExpirySuite
from tests.storage.incarnation_suite import IncarnationSuite
from tests.storage.listing_suite import ListingSuite
from tests.storage.model_suite import ModelSuite
from tests.storage.reading_suite import ReadingSuite
from tests.storage.watching_suite import WatchingSuite
from tests.storage.writing_suite import WritingSuite


class StoreSuite(
    WritingSuite,
    ReadingSuite,
    ExpirySuite,
    WatchingSuite,
    ListingSuite,
    IncarnationSuite,
    ModelSuite,
):
    """All suites."""
