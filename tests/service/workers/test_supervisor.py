"""Tests of `durable_streams_tw.service.workers.supervisor` and of `.worker_process`."""

from __future__ import annotations

import errno
import os
import signal
import socket
import tempfile
from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.testing import MemoryReactorClock
from twisted.logger import capturedLogs
from twisted.trial.unittest import SynchronousTestCase

from durable_streams_tw.service.configuration import Configuration
from durable_streams_tw.service.sources import command_line
from durable_streams_tw.service.startup import CannotStart
from durable_streams_tw.service.workers import messages, supervisor
from durable_streams_tw.service.workers.limits import (
    MAX_RESTART_PAUSE,
    QUICK_RESTARTS,
    RESTART_PAUSE,
)
from durable_streams_tw.service.workers.supervisor import Supervisor
from durable_streams_tw.service.workers.worker_process import SPARE, TEMPLATE, WorkerProcess


class Worker:
    """Worker without a process: it is ready once it has a role, and no stop waits for it."""

    problems = ()
    samples = ()
    is_ready = True
    is_running = False

    def __init__(
        self,
        reactor: MemoryReactorClock,
        template: Template,
        received: Callable[[Worker, messages.ToSupervisor], None],
        exited: Callable[[Worker, str], None],
    ) -> None:
        self.name = SPARE
        self.template = template
        self.started = reactor.seconds()
        self.ended: Deferred[None] = Deferred()
        self.pid = 0
        self._received = received
        self._exited = exited
        self._read, self._write = os.pipe()

    def fileno(self) -> int:
        return self._read

    def run(self) -> None:
        """Report the id of the process."""
        self.pid = id(self)
        self._received(self, messages.Started(self.pid))

    def assign(self, name: str, assignment: object) -> None:
        self.name = name
        if not self.pid:
            self.run()

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
    """Template without a process, which is killed at once."""

    name = TEMPLATE
    pid = 1

    def __init__(
        self,
        reactor: MemoryReactorClock,
        directory: object,
        sockets: object,
        modules: object,
        exited: Callable[[str], None],
    ) -> None:
        self.started = reactor.seconds()
        self.ended: Deferred[None] = Deferred()
        self.blocked_signals = signal.pthread_sigmask(signal.SIG_BLOCK, ())
        self._exited = exited

    def kill(self) -> None:
        if not self.ended.called:
            self._exited("was killed by signal 9")
            self.ended.callback(None)

    def fork(self, pair: socket.socket) -> None:
        pair.close()


class RestartTests(SynchronousTestCase):
    """Supervisor of two fronts, whose processes end."""

    def setUp(self) -> None:
        self.reactor = MemoryReactorClock()
        self.made: list[Worker] = []
        self.templates: list[Template] = []
        self.reaped = 0
        self.patch(supervisor, "WorkerProcess", self.make)
        self.patch(supervisor, "TemplateProcess", self.make_template)
        self.patch(supervisor, "adopt_orphans", lambda: None)
        self.patch(supervisor, "reap_orphans", self.reap)
        self.refusal: OSError | None = None
        self.supervisor = self.make_supervisor()
        self.supervisor.startService()
        self.addCleanup(self.supervisor.stopService)
        self.reactor.run()
        self.made[-1].run()

    def make_supervisor(self) -> Supervisor:
        given = command_line({"workers": ("2",), "listen": ("tcp:0:interface=127.0.0.1",)})
        return Supervisor(Configuration([given]), self.reactor)

    def make(self, *arguments: Any) -> Worker:
        self.made.append(Worker(*arguments))
        return self.made[-1]

    def make_template(self, *arguments: Any) -> Template:
        if self.refusal is not None:
            raise self.refusal
        self.templates.append(Template(*arguments))
        return self.templates[-1]

    def reap(self) -> None:
        self.reaped += 1

    def named(self, name: str) -> list[Worker]:
        return [worker for worker in self.made if worker.name == name]

    def restart_spare(self) -> None:
        """End the spare process, and run the next one."""
        self.made[-1].end()
        self.reactor.advance(0)
        self.made[-1].run()

    def test_signal_before_the_template_runs(self) -> None:
        """Ctrl-C and SIGTERM wait until the template can remove the directory, and no longer."""
        stopping = {signal.SIGINT, signal.SIGTERM}
        self.assertEqual(self.templates[0].blocked_signals & stopping, stopping)
        self.assertFalse(signal.pthread_sigmask(signal.SIG_BLOCK, ()) & stopping)

    def test_template_that_the_system_refuses(self) -> None:
        """The supervisor tries again a second later."""
        self.made[-1].end()
        self.refusal = BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")
        self.templates[-1].kill()
        with capturedLogs() as events:
            self.reactor.advance(0)
            self.reactor.advance(RESTART_PAUSE)
        self.assertEqual([event["why"] for event in events], 2 * [self.refusal.strerror])
        self.refusal = None
        self.reactor.advance(RESTART_PAUSE)
        self.assertEqual(len(self.templates), 2)
        self.assertIs(self.made[-1].template, self.templates[-1])

    def test_start_that_the_system_refuses(self) -> None:
        """It is an error in one line, and leaves no directory."""
        directory = self.mktemp()
        os.mkdir(directory)
        self.patch(supervisor, "_private_directory", lambda: directory)
        self.refusal = BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")
        error = self.assertRaises(CannotStart, self.make_supervisor().startService)
        self.assertEqual(str(error), "could not start workers: Resource temporarily unavailable")
        self.assertFalse(os.path.exists(directory))

    def test_no_writable_directory(self) -> None:
        """In a container without a writable directory the error names the variable to set."""

        def gettempdir() -> str:
            raise FileNotFoundError(errno.ENOENT, "No usable temporary directory found in []")

        self.patch(tempfile, "gettempdir", gettempdir)
        error = self.assertRaises(CannotStart, self.make_supervisor().startService)
        self.assertIn("could not start workers: no directory for temporary files", str(error))
        self.assertIn("set TMPDIR", str(error))

    def test_stop(self) -> None:
        """The template is killed after the workers have ended; its end is awaited."""
        template = self.templates[-1]
        kills: list[None] = []
        self.patch(template, "kill", lambda: kills.append(None))
        for worker in self.made:
            worker.is_running = True
        stopped = self.supervisor.stopService()
        self.assertEqual(kills, [])
        for worker in self.made:
            worker.is_running = False
            worker.ended.callback(None)
        self.assertEqual(kills, [None])
        self.assertNoResult(stopped)
        template.ended.callback(None)
        self.successResultOf(stopped)

    def test_spare_process(self) -> None:
        """A spare process that ends while the restart of one is pending is replaced once."""
        for _ in range(QUICK_RESTARTS):
            self.restart_spare()
        self.made[-1].end()
        (front,) = self.named("front-1")
        front.end()
        self.reactor.advance(0)
        self.made[-1].run()
        self.made[-1].run()
        self.made[-1].end()
        before = len(self.made)
        self.reactor.advance(MAX_RESTART_PAUSE)
        self.assertEqual(len(self.made), before + 1)
        self.assertEqual(self.made[-1].name, SPARE)

    def test_worker_that_waits_for_the_template(self) -> None:
        """A template that ends many times delays a worker only until the next one forks."""
        (front,) = self.named("front-1")
        self.made[-1].end()
        front.end()
        for _ in range(QUICK_RESTARTS + 4):
            self.reactor.advance(MAX_RESTART_PAUSE)
            self.templates[-1].kill()
            # The pair of the process that was not forked.
            self.made[-1].end()
        self.assertEqual(self.named("front-1"), [front])
        self.reactor.advance(MAX_RESTART_PAUSE)
        self.made[-1].run()
        self.assertEqual(len(self.named("front-1")), 2)
        front = self.named("front-1")[-1]
        self.made[-1].run()
        front.end()
        self.reactor.advance(0)
        self.assertEqual(len(self.named("front-1")), 3)

    def test_template_that_does_not_fork(self) -> None:
        """A template that runs, but has not forked a process, is replaced."""
        self.made[-1].end()
        self.reactor.advance(0)
        self.made[-1].end()
        self.reactor.advance(0)
        self.assertEqual(len(self.templates), 2)
        self.made[-1].run()
        self.assertIs(self.made[-1].template, self.templates[-1])

    def test_template_that_has_ended(self) -> None:
        """The end of a template that SIGCHLD has not reported yet is no failure to fork."""
        self.made[-1].end()
        self.reactor.advance(0)
        self.patch(supervisor, "reap_orphans", self.templates[-1].kill)
        with capturedLogs() as events:
            self.made[-1].end()
        self.assertEqual([event["worker"] for event in events], [TEMPLATE])
        self.assertIn("was killed by signal 9", events[0]["how"])
        self.assertEqual(events[0]["when"], "now")
        self.reactor.advance(0)
        self.assertEqual(len(self.templates), 2)

    def test_process_that_an_earlier_template_did_not_fork(self) -> None:
        """Its end is no reason to replace the template again."""
        self.restart_spare()
        self.made[-1].end()
        self.reactor.advance(0)
        self.templates[-1].kill()
        self.reactor.advance(0)
        self.made[-1].end()
        self.assertEqual(len(self.templates), 2)
        self.assertIs(self.made[-1].template, self.templates[-1])

    def test_orphans(self) -> None:
        """Orphans of a template are reaped unless one may be a process without an id."""
        self.reactor.advance(0)
        before = self.reaped
        self.templates[-1].kill()
        self.reactor.advance(0)
        self.assertEqual(self.reaped, before + 1)
        self.made[-1].end()
        self.reactor.advance(0)
        self.templates[-1].kill()
        self.reactor.advance(0)
        self.assertEqual(self.reaped, before + 1)
        self.made[-1].run()
        self.reactor.advance(0)
        self.assertEqual(self.reaped, before + 2)


class WorkerProcessTests(SynchronousTestCase):
    def test_end_before_the_assignment(self) -> None:
        """The assignment of a process that has ended is no error, and the next read reports it."""
        unused: Any = None
        template: Any = Template(MemoryReactorClock(), unused, unused, unused, unused)
        worker = WorkerProcess(MemoryReactorClock(), template, unused, unused)
        assignment = messages.Assignment("front", {}, "", "", "", 0, (), 1, (), True)
        worker.assign("front-1", assignment)
        worker.read()
        worker.kill()
        self.assertEqual(worker.problems, ("template ended before it was ready; see the log",))
