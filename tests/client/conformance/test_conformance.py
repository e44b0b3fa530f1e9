"""The public suite passes, except for the cases that deviations.json names with a reason."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred, DeferredList
from twisted.trial.unittest import SkipTest

from tests.client.conformance.runner import Case, CaseFailed, Faults, Run, load_cases
from tests.client.fault_proxy import FaultProxy
from tests.client.reactor_case import ReactorTestCase, reactor
from tests.service.black_box import Foreground, new_directory

HERE = Path(__file__).parent
TOP = HERE.parents[2]
CASES = Path(
    os.environ.get("CLIENT_CONFORMANCE_CASES")
    or TOP.parent / "shared" / "client-conformance" / "test-cases"
)
OPTIONS = ("durable-streams", "--interface=127.0.0.1", "--port=0", "--root=/")
#: Cases that run at the same time: most of them wait.
AT_ONCE = 8


class ConformanceTests(ReactorTestCase):
    """All cases, against the real service behind a proxy that injects faults."""

    async def test_suite(self) -> None:
        """The cases that fail are those of deviations.json."""
        if not CASES.is_dir():
            raise SkipTest(f"no cases in {CASES}: set CLIENT_CONFORMANCE_CASES")
        deviations = json.loads((HERE / "deviations.json").read_text("utf-8"))
        here = new_directory(self)
        with Foreground(here, *OPTIONS, "--long-poll-timeout=500ms") as server:
            failed = await run_all(reactor, server.port, load_cases(CASES))
        surprises = {name: failed[name] for name in sorted(failed.keys() - deviations)}
        self.assertEqual(surprises, {})
        self.assertEqual(sorted(failed), sorted(deviations), "cases that pass now")


async def run_all(reactor: Any, port: int, cases: Iterable[Case]) -> dict[str, str]:
    """Run cases against a server; return those that fail, with what contradicts."""
    faults = Faults()
    proxy = FaultProxy(reactor, port, faults.choose)
    await proxy.start()
    left = iter(cases)
    failed: dict[str, str] = {}

    async def work() -> None:
        for case in left:
            try:
                await Run(reactor, proxy, faults).run(case)
            except CaseFailed as failure:
                failed[case.id] = str(failure)
            except Exception as failure:  # noqa: BLE001 - a case that crashes has failed
                failed[case.id] = f"{type(failure).__name__}: {failure}"

    try:
        await DeferredList([Deferred.fromCoroutine(work()) for _ in range(AT_ONCE)])
    finally:
        await proxy.stop()
    return failed
