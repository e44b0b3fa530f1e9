"""A producer appends exactly once while the server is killed and the proxy misbehaves."""

from __future__ import annotations

from tests.client.kill_producer import run
from tests.client.reactor_case import ReactorTestCase, reactor
from tests.service.black_box import new_directory


class KillProducerTests(ReactorTestCase):
    """A few kills; `python -m tests.client.kill_producer` does more."""

    async def test_exactly_once(self) -> None:
        """Each message is stored once and seen once, in order."""
        here = new_directory(self)
        outcome = await run(reactor, here, 3, 7, lambda line: None)
        self.assertTrue(outcome.is_exact, vars(outcome))
        self.assertEqual(outcome.kills, 3)
        self.assertGreater(outcome.faults, 0)
