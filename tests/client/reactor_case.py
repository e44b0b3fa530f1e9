"""Test case for tests that need sockets, processes and time."""

from __future__ import annotations

from typing import Any

from twisted.internet import reactor as installed
from twisted.trial.unittest import TestCase

reactor: Any = installed


class ReactorTestCase(TestCase):
    """Test case that runs the reactor.

    On asyncio's reactor, trial's workers (``--jobs``) run one such test only: they restart the
    reactor before its last stop was carried out. `test_asyncio` uses a process of its own.
    """

    timeout = 240
    if type(reactor).__name__ == "AsyncioSelectorReactor":
        skip = "trial's workers cannot run the asyncio reactor twice"
