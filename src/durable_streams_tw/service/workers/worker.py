"""Worker process: a role, and the pair by which the supervisor controls it."""

from __future__ import annotations

import os
import socket
from contextlib import suppress
from typing import Any

from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.protocol import Factory
from twisted.internet.task import LoopingCall
from twisted.logger import Logger, globalLogBeginner
from twisted.python.failure import Failure

from durable_streams_tw.service import process_tuning
from durable_streams_tw.service.log_output import filtered
from durable_streams_tw.service.workers import messages, roles
from durable_streams_tw.service.workers.limits import HEARTBEAT_PERIOD, METRICS_PERIOD
from durable_streams_tw.service.workers.log_relay import LogRelay
from durable_streams_tw.telemetry.metric_samples import Samples


class Worker:
    """Worker process: a role, and the pair by which the supervisor controls it."""

    _log = Logger()

    def __init__(self, reactor: Any, assignment: messages.Assignment, pair: socket.socket) -> None:
        self._reactor = reactor
        self._assignment = assignment
        self._messages: Any = messages.MessageProtocol(
            messages.decode_for_worker, self._received, self._orphaned
        )
        self._relay = LogRelay(self._messages)
        self._role: roles.Role | None = None
        self._pair = pair
        self._is_ready = False
        self._reports = LoopingCall(self._report)
        self._heartbeats = LoopingCall(lambda: self._messages.send(messages.Heartbeat()))

    def run(self) -> None:
        """Serve until the supervisor stops this worker."""
        configuration = roles.configuration_of(self._assignment)
        globalLogBeginner.beginLoggingTo(
            [filtered(configuration, self._relay)], redirectStandardIO=False
        )
        self._pair.setblocking(False)
        with self._pair as pair:
            factory: Any = Factory.forProtocol(lambda: self._messages)
            factory.noisy = False
            # The reactor duplicates the descriptor.
            self._reactor.adoptStreamConnection(pair.fileno(), socket.AF_UNIX, factory)
        self._messages.transport.registerProducer(self._relay, True)
        self._reactor.callWhenRunning(self._start)
        self._reactor.run(installSignalHandlers=False)

    # -- start ----------------------------------------------------------------------------------

    def _start(self) -> None:
        started: Deferred[Any] = maybeDeferred(self._begin)
        started.addCallbacks(self._started, self._failed)

    def _begin(self) -> Deferred[None]:
        # Relative paths in the settings start at the directory of the supervisor. Ignore an error:
        # a worker that needs such a path reports the file that it cannot read.
        with suppress(OSError):
            os.chdir(self._assignment.given_in)
        self._role = roles.assume(self._assignment, self._reactor, self._messages.send)
        return self._role.start()

    def _started(self, _: object) -> None:
        with suppress(OSError):
            os.chdir(self._assignment.runs_in)
        process_tuning.tune()
        self._is_ready = True
        self._messages.send(messages.Ready())
        self._reports.start(METRICS_PERIOD)
        self._heartbeats.start(HEARTBEAT_PERIOD)

    def _failed(self, failure: Failure) -> None:
        problems = roles.problems_of(failure)
        if problems is None:
            self._log.failure("Could not start", failure)
            problems = (f"internal error: {failure.getErrorMessage()}; see the log",)
        self._messages.send(messages.Failed(problems))
        self._exit()

    # -- messages -------------------------------------------------------------------------------

    def _received(self, message: messages.ToWorker) -> None:
        role = self._role
        if isinstance(message, messages.Stop):
            self._stop()
        elif role is not None and isinstance(message, messages.Reload):
            role.reload()
            self._messages.send(messages.Reloaded())
        elif role is not None:
            role.received(message)

    def _report(self) -> Deferred[None]:
        assert self._role is not None, "it reports once it has started"
        errors = dict(self._role.webhook_errors)
        sampled: Deferred[Samples] = self._role.samples()
        return sampled.addCallback(
            lambda samples: self._messages.send(messages.OwnSamples(samples, errors))
        )

    def _stop(self) -> None:
        if self._reports.running:
            self._reports.stop()
        if self._role is None or not self._is_ready:
            self._exit()
            return
        stopped: Deferred[Any] = maybeDeferred(self._role.stop)
        stopped.addErrback(lambda failure: self._log.failure("Could not stop", failure))
        stopped.addCallback(lambda _: self._exit())

    def _exit(self) -> None:
        # Sends what waits, such as log events, before the connection is lost.
        self._messages.transport.loseConnection()

    def _orphaned(self) -> None:
        """Exit: the pair is closed. Without the supervisor there is no orderly stop."""
        os._exit(0)


def run_worker(reactor: Any, pair: socket.socket) -> None:
    """Wait for an assignment and carry it out. Return at once if the supervisor ends before."""
    try:
        messages.write_message(pair, messages.Started(os.getpid()))
        assignment = messages.read_message(pair, messages.decode_for_worker)
        messages.write_message(pair, messages.Heartbeat())
    except (EOFError, OSError):
        return
    Worker(reactor, assignment, pair).run()
