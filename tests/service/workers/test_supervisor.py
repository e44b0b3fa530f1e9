"""Tests of `durable_streams_tw.service.workers.supervisor`."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from twisted.internet.testing import MemoryReactorClock
from twisted.trial.unittest import SynchronousTestCase

from durable_streams_tw.service.configuration import Configuration
from durable_streams_tw.service.sources import command_line
from durable_streams_tw.service.workers import supervisor
from durable_streams_tw.service.workers.limits import MAX_RESTART_PAUSE, QUICK_RESTARTS
from durable_streams_tw.service.workers.supervisor import Supervisor
from durable_streams_tw.service.workers.worker_process import SPARE


class Worker:
    """Worker without a process: it is ready at once, and no stop waits for it."""

    problems = ()
    samples = ()
    is_ready = True
    is_running = False

    def __init__(
        self,
        reactor: MemoryReactorClock,
        template: object,
        received: object,
        exited: Callable[[Worker, str], None],
    ) -> None:
        self.name = SPARE
        self.started = reactor.seconds()
        self.pid = id(self)
        self._exited = exited
        self._read, self._write = os.pipe()

    def fileno(self) -> int:
        return self._read

    def assign(self, name: str, assignment: object) -> None:
        self.name = name

    def adopt(self) -> None:
        os.close(self._read)
        os.close(self._write)

    def send(self, message: object) -> None:
        pass

    def kill(self) -> None:
        pass

    def end(self) -> None:
        self._exited(self, "ended")


class Template:
    """Template without a process."""

    pid = 1

    def __init__(self, *arguments: object) -> None:
        pass

    def kill(self) -> None:
        pass


class RestartTests(SynchronousTestCase):
    """Supervisor of two fronts, whose processes end."""

    def setUp(self) -> None:
        self.reactor = MemoryReactorClock()
        self.made: list[Worker] = []
        self.patch(supervisor, "WorkerProcess", self.make)
        self.patch(supervisor, "TemplateProcess", Template)
        self.patch(supervisor, "adopt_orphans", lambda: None)
        given = command_line({"workers": ("2",), "listen": ("tcp:0:interface=127.0.0.1",)})
        self.supervisor = Supervisor(Configuration([given]), self.reactor)
        self.supervisor.startService()
        self.addCleanup(self.supervisor.stopService)
        self.reactor.run()

    def make(self, *arguments: Any) -> Worker:
        self.made.append(Worker(*arguments))
        return self.made[-1]

    def test_spare_process(self) -> None:
        """A spare process that ends while the restart of one is pending is replaced once."""
        for _ in range(QUICK_RESTARTS + 1):
            self.made[-1].end()
            self.reactor.advance(0)
        (front,) = [worker for worker in self.made if worker.name == "front-1"]
        front.end()
        self.reactor.advance(0)
        self.made[-1].end()
        before = len(self.made)
        self.reactor.advance(MAX_RESTART_PAUSE)
        self.assertEqual(len(self.made), before + 1)
        self.assertEqual(self.made[-1].name, SPARE)
