"""Supervisor of worker processes: starts, restarts, reloads and stops them.

It opens the listening ports, but serves nothing itself, so that it keeps running when a worker
fails. Workers inherit its user and end when it ends.
"""

from __future__ import annotations

import os
import re
import selectors
import shutil
import signal
import socket
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

from twisted.application.service import MultiService, Service
from twisted.internet.defer import Deferred, DeferredList, gatherResults, maybeDeferred
from twisted.internet.interfaces import IDelayedCall
from twisted.internet.protocol import Factory
from twisted.logger import Logger
from twisted.python.failure import Failure

from durable_streams_tw.clocks import cancel
from durable_streams_tw.concurrency import stop_all
from durable_streams_tw.service.configuration import Configuration
from durable_streams_tw.service.listening import endpoints
from durable_streams_tw.service.port_announcer import PortAnnouncer, raise_not_open, storage_name
from durable_streams_tw.service.reload import ReloadService
from durable_streams_tw.service.settings_table import SETTINGS
from durable_streams_tw.service.startup import (
    CannotStart,
    ServiceGroup,
    StderrReporter,
    when_running,
)
from durable_streams_tw.service.systemd_notify import SystemdNotifier
from durable_streams_tw.service.workers import messages
from durable_streams_tw.service.workers.hang_detector import HangDetector
from durable_streams_tw.service.workers.limits import (
    FRONT_STOP,
    HEARTBEAT_PERIOD,
    MAX_SILENCE,
    MAX_SOCKET_DIRECTORY,
    OWNER_STOP,
    RESTART_PAUSE,
)
from durable_streams_tw.service.workers.parent import adopt_orphans, reap_orphans
from durable_streams_tw.service.workers.restarts import RestartBackoff
from durable_streams_tw.service.workers.shared_sockets import SocketBinder
from durable_streams_tw.service.workers.usage import UsageTotals
from durable_streams_tw.service.workers.worker_process import (
    SPARE,
    TEMPLATE,
    TemplateProcess,
    WorkerProcess,
)
from durable_streams_tw.telemetry.metric_samples import Samples, add_ended

OWNER: Final = "owner"

# A worker inherits the socket, whatever its endpoint was.
_INHERITED: Final = re.compile(r"systemd:.*", re.DOTALL)


def build_supervisor(
    configuration: Configuration,
    reporter: StderrReporter,
    reactor: Any,
    greet: Callable[[str], None] | None,
    reopen_log: Callable[[], None] | None,
) -> ServiceGroup:
    """Return the service of a server with workers: see `make_service.build_service`."""
    service = ServiceGroup(reporter.report, reporter.close)
    supervisor = Supervisor(configuration, reactor, greet)
    notifier = SystemdNotifier.of(reactor)
    reloading = ReloadService((), reactor, notifier, reopen_log, supervisor.reload)
    for part in (reloading, supervisor, notifier):
        MultiService.addService(service, part)
    return service


class Supervisor(Service):
    """Service that runs the owner of the store and the fronts.

    Raises `ConfigurationError` if the endpoints are unusable.
    """

    _log = Logger()
    _template: TemplateProcess
    """Process that forks the others, once the service has started."""

    def __init__(
        self,
        configuration: Configuration,
        reactor: Any,
        greet: Callable[[str], None] | None = None,
    ) -> None:
        self._configuration = configuration
        self._reactor = reactor
        self._fronts: int = configuration["workers"]
        self._binder = SocketBinder(reactor, self._fronts)
        self._endpoints = endpoints(configuration, self._binder)
        self._announcer = PortAnnouncer(
            configuration["root"],
            greet,
            storage=storage_name(configuration),
            open_to_all=not configuration["auth"],
        )
        self._given = _given(configuration)
        self._given_in = os.getcwd()
        self._addresses: list[Any] | None = None
        self._notices: tuple[messages.PortNotice, ...] = ()
        self._directory = ""
        # Current processes by name, one that waits to replace one, and the names that wait for it.
        self._workers: dict[str, WorkerProcess] = {}
        self._spare: WorkerProcess | None = None
        self._waiting: list[str] = []
        self._restarted: set[str] = set()
        self._backoffs: dict[str, RestartBackoff] = {}
        self._restarts: dict[str, IDelayedCall] = {}
        self._reloads: dict[WorkerProcess, Deferred[None]] = {}
        self._hangs: HangDetector[WorkerProcess] = HangDetector(reactor, self._kill_hung)
        self._usage = UsageTotals()
        # Errors that the owner has reported.
        self._errors: dict[str, str] = {}
        # Totals of processes that have ended.
        self._ended: Samples = ()

    # -- start ----------------------------------------------------------------------------------

    def privilegedStartService(self) -> None:
        """Open the ports. Raises `CannotStart` if that fails."""
        Service.privilegedStartService(self)
        failures: list[Failure] = []
        ports: list[Any] = []
        for endpoint in self._endpoints:
            listening: Deferred[Any] = maybeDeferred(endpoint.listen, Factory())
            listening.addCallbacks(ports.append, failures.append)
        if failures:
            self._binder.close()
            raise_not_open(failures[0])
        self._addresses = [port.getHost() for port in ports]

    def startService(self) -> None:
        """Start all workers, and block until they are ready. Raises `CannotStart`."""
        Service.startService(self)
        if self._addresses is None:
            self.privilegedStartService()
        located = list(zip(self._endpoints, self._addresses or (), strict=True))
        self._notices = tuple(messages.PortNotice(*self._announcer.locate(*one)) for one in located)
        adopt_orphans()
        # Until the template runs, which removes the directory, the end of this process would leave
        # the directory behind. The template unblocks the signals.
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM))
        try:
            self._directory = _private_directory()
            self._start_template()
        except OSError as error:
            self._binder.close()
            self._remove_directory()
            raise CannotStart(f"could not start workers: {error.strerror}") from None
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        try:
            self._workers = {name: self._spawn() for name in self._names()}
            # The fronts need an open store.
            for starting in ({OWNER} & self._workers.keys(), self._workers.keys() - {OWNER}):
                self._start_and_wait([self._workers[name] for name in sorted(starting)])
        except BaseException:
            for worker in self._workers.values():
                worker.kill()
            self._template.kill()
            self._binder.close()
            self._remove_directory()
            raise
        for worker in self._workers.values():
            worker.adopt()
        serving = {name: worker.pid for name, worker in self._workers.items()}
        self._log.info(
            "Workers: {workers}",
            workers=", ".join(
                f"{name} (process {pid})"
                for name, pid in {**serving, TEMPLATE: self._template.pid}.items()
            ),
        )
        when_running(self, self._reactor, self._announce, located)

    def _announce(self, located: Sequence[tuple[Any, Any]]) -> None:
        for one in located:
            self._announcer.announce(*one)
        self._hangs.start()
        self._prepare_spare()

    def _names(self) -> list[str]:
        numbers = range(1, self._fronts + 1)
        if self._configuration["database"] is not None:
            return [f"node-{number}" for number in numbers]
        return [OWNER, *(f"front-{number}" for number in numbers)]

    def _start_and_wait(self, starting: Sequence[WorkerProcess]) -> None:
        """Assign roles and process messages until they are taken. Raises `CannotStart`."""
        names = {worker: name for name, worker in self._workers.items()}
        for worker in starting:
            worker.assign(names[worker], self._assignment(names[worker]))
        with selectors.DefaultSelector() as selector:
            for worker in self._workers.values():
                selector.register(worker, selectors.EVENT_READ, worker)
            while not all(worker.is_ready for worker in starting):
                for key, _ in selector.select():
                    key.data.read()
                    if key.data.problems:
                        self._template.read_output()
                        raise CannotStart("\n".join(key.data.problems))

    def _start_template(self) -> None:
        self._template = TemplateProcess(
            self._reactor,
            self._directory,
            self._binder.sockets,
            worker_modules(self._configuration),
            self._template_exited,
        )

    def _spawn(self) -> WorkerProcess:
        made = WorkerProcess(self._reactor, self._template, self._received, self._exited)
        self._hangs.expect(made)
        return made

    def _prepare_spare(self) -> None:
        """Fork a process that can replace a worker while a new template imports its modules."""
        if self._spare is None and self.running and not self._template.ended.called:
            self._spare = self._spawn()
            self._spare.adopt()

    def _assignment(self, name: str) -> messages.Assignment:
        kind, _, number = name.partition("-")
        given = self._given
        if kind == "node":
            base = self._configuration["node"] or socket.gethostname()
            given = {**given, "node": (f"{base}-{number}",)}
        return messages.Assignment(
            role=kind,  # type: ignore[arg-type]
            given=given,
            given_in=self._given_in,
            runs_in=os.getcwd(),
            address="" if kind == "node" else os.path.join(self._directory, "store"),
            inherited=len(self._binder.sockets),
            served=self._binder.positions(int(number) - 1) if number else (),
            workers=self._fronts,
            notices=self._notices,
            first=name not in self._restarted and number in ("", "1"),
        )

    # -- messages -------------------------------------------------------------------------------

    def _received(self, worker: WorkerProcess, message: messages.ToSupervisor) -> None:
        name = worker.name
        if isinstance(message, messages.Started):
            if name == SPARE:
                self._hangs.ignore(worker)
                self._reactor.callLater(0, self._reap_orphans)
                self._replace()
        elif isinstance(message, messages.Heartbeat):
            if worker.is_ready:
                self._hangs.expect(worker)
            else:
                self._hangs.ignore(worker)
        elif isinstance(message, messages.OwnSamples):
            worker.samples = message.samples
            if name == OWNER and message.errors != self._errors:
                self._errors = message.errors
                self._tell(dict.fromkeys(self._workers, messages.WebhookErrors(self._errors)))
        elif isinstance(message, messages.OwnUsage):
            self._tell(self._usage.update(name, message))
        elif isinstance(message, messages.SamplesRequest):
            current = {name: one.samples for name, one in self._workers.items()}
            worker.send(messages.AllSamples(message.number, current, self._ended))
        elif isinstance(message, messages.Reloaded):
            self._end_reload(worker)
        elif isinstance(message, messages.Ready):
            self._hangs.expect(worker)
            if name == OWNER:
                self._tell(dict.fromkeys(self._workers.keys() - {OWNER}, messages.OwnerReady()))
            else:
                worker.send(self._usage.add(name))
                worker.send(messages.WebhookErrors(self._errors))
            if name in self._restarted:
                self._log.info("{worker} serves (process {pid})", worker=name, pid=worker.pid)
        elif isinstance(message, messages.Failed) and name in self._restarted:
            for problem in message.problems:
                self._log.error("{worker} cannot start: {why}", worker=name, why=problem)

    def _tell(self, told: Mapping[str, messages.ToWorker]) -> None:
        for name, message in told.items():
            self._workers[name].send(message)

    # -- restart --------------------------------------------------------------------------------

    def _exited(self, worker: WorkerProcess, how: str) -> None:
        name = worker.name
        self._hangs.ignore(worker)
        self._ended = add_ended(self._ended, worker.samples)
        worker.samples = ()
        self._end_reload(worker)
        self._tell(self._usage.remove(name))
        if not self.running:
            return
        if worker is self._spare:
            self._spare = None
            if not worker.pid:
                self._not_forked(worker.template)
                return
        else:
            self._restarted.add(name)
        self._restart_later(worker, how)

    def _not_forked(self, template: TemplateProcess) -> None:
        """Leave it to the next template to fork a process that this one did not fork."""
        if template is not self._template:
            self._prepare_spare()
            return
        # The pair of a template that has ended may be closed before SIGCHLD is handled.
        self._reap_orphans()
        if not template.ended.called:
            self._log.error(
                "{worker} (process {pid}) did not fork a process and is killed",
                worker=template.name,
                pid=template.pid,
            )
            template.kill()

    def _template_exited(self, how: str) -> None:
        # Not now: Twisted is calling the children that have ended.
        self._reactor.callLater(0, self._reap_orphans)
        if self.running:
            self._restart_later(self._template, how)

    def _reap_orphans(self) -> None:
        """Reap processes that a template was killed too early to reap."""
        # A process that has not reported its id yet would be taken for one of them.
        if self._spare is None or self._spare.pid:
            reap_orphans()

    def _restart_later(self, ended: WorkerProcess | TemplateProcess, how: str) -> None:
        name = ended.name
        backoff = self._backoffs.setdefault(name, RestartBackoff())
        pause = backoff.pause(ended.started, self._reactor.seconds())
        self._log.error(
            "{worker} (process {pid}) {how}; it restarts {when}",
            worker=name,
            pid=ended.pid,
            how=how,
            when=f"in {pause:g} s" if pause else "now",
        )
        # A spare process whose restart is pending may have been forked for another restart.
        cancel(self._restarts.get(name))
        self._restarts[name] = self._reactor.callLater(pause, self._restart, name)

    def _restart(self, name: str) -> None:
        del self._restarts[name]
        if name == TEMPLATE:
            try:
                self._start_template()
            except OSError as error:
                # Such as a lack of processes or memory, which may pass.
                self._log.error(
                    "{worker} could not be started: {why}; next attempt in {pause:g} s",
                    worker=name,
                    why=error.strerror,
                    pause=RESTART_PAUSE,
                )
                self._restarts[name] = self._reactor.callLater(RESTART_PAUSE, self._restart, name)
                return
            self._log.info("{worker} serves (process {pid})", worker=name, pid=self._template.pid)
        elif name != SPARE:
            self._waiting.append(name)
            self._replace()
        self._prepare_spare()

    def _replace(self) -> None:
        """Give the spare process, once it runs, to the worker that waits for the longest time."""
        worker = self._spare
        if worker is None or not worker.pid or not self._waiting:
            return
        name = self._waiting.pop(0)
        self._spare = None
        self._workers[name] = worker
        self._hangs.expect(worker)
        worker.assign(name, self._assignment(name))
        self._prepare_spare()

    def _kill_hung(self, worker: WorkerProcess) -> None:
        # Without an id, it was not forked.
        hung = worker if worker.pid else worker.template
        self._log.error(
            "{worker} (process {pid}) has not answered for {seconds:g} s and is killed",
            worker=hung.name,
            pid=hung.pid,
            seconds=MAX_SILENCE * HEARTBEAT_PERIOD,
        )
        hung.kill()

    # -- reload ---------------------------------------------------------------------------------

    def reload(self) -> Deferred[None]:
        """Reload the certificates of all workers. Fires when they have, or have ended."""
        waiting: list[Deferred[None]] = []
        for worker in self._workers.values():
            if worker.is_ready and worker not in self._reloads:
                self._reloads[worker] = Deferred()
                waiting.append(self._reloads[worker])
                worker.send(messages.Reload())
        both: Deferred[Any] = gatherResults(waiting)
        return both.addCallback(lambda _: None)

    def _end_reload(self, worker: WorkerProcess) -> None:
        done = self._reloads.pop(worker, None)
        if done is not None:
            done.callback(None)

    # -- stop -----------------------------------------------------------------------------------

    def stopService(self) -> Deferred[None]:
        """Close the ports and stop the workers: first the fronts, then the owner."""
        Service.stopService(self)
        self._hangs.stop()
        self._binder.close()
        for restart in self._restarts.values():
            restart.cancel()
        self._restarts.clear()
        if self._spare is not None:
            self._spare.kill()
        owners = [worker for name, worker in self._workers.items() if name == OWNER]
        fronts = [worker for name, worker in self._workers.items() if name != OWNER]
        return stop_all(
            lambda: self._stop(fronts, FRONT_STOP),
            lambda: self._stop(owners, OWNER_STOP),
            self._remove_directory,
            self._stop_template,
        )

    def _stop(self, workers: Iterable[WorkerProcess], patience: float) -> Deferred[Any]:
        running = [worker for worker in workers if worker.is_running]
        ended = []
        for worker in running:
            worker.send(messages.Stop())
            ended.append(worker.ended)
            kill = self._reactor.callLater(patience, self._kill, worker)
            worker.ended.addCallback(lambda _, kill: cancel(kill), kill)
        return DeferredList(ended)

    def _stop_template(self) -> Deferred[None]:
        """Kill the template, last: it removes the directory if this process is killed before."""
        self._template.kill()
        # If the reactor stopped before the end, Twisted would reap the process twice.
        return self._template.ended

    def _kill(self, worker: WorkerProcess) -> None:
        self._log.error("{worker} did not stop and is killed", worker=worker.name)
        worker.kill()

    def _remove_directory(self) -> None:
        shutil.rmtree(self._directory, ignore_errors=True)


def _private_directory() -> str:
    """Create the directory of the owner's socket; the owner trusts those who can enter it."""
    try:
        usual = tempfile.gettempdir()
    except FileNotFoundError as error:
        reason = "no directory for temporary files is writable: set TMPDIR to one that is"
        raise OSError(error.errno, reason) from None
    too_long = len(os.fsencode(usual)) > MAX_SOCKET_DIRECTORY
    return tempfile.mkdtemp(prefix="durable-streams-", dir="/tmp" if too_long else usual)


def worker_modules(configuration: Configuration) -> list[str]:
    """Return the modules of workers that depend on the settings."""
    needed = {
        "auth": ("service.auth_checkers", "auth.token_checkers"),
        "data-dir": ("storage.durable.store", "storage.remote.checkpoint_reader"),
        "database": ("storage.postgres.store",),
        "console": ("http.operators.console",),
        "tracing": ("telemetry.tracing",),
        "workers": ("storage.remote.server",),
    }
    return [
        f"durable_streams_tw.{module}"
        for name, modules in needed.items()
        if configuration[name]
        for module in modules
    ]


def _given(configuration: Configuration) -> dict[str, tuple[str, ...]]:
    """Return the texts of the settings for the workers, without those that have no effect."""
    given = {
        name: (configuration[name],) if setting.directory else configuration.texts(name)
        for name, setting in SETTINGS.items()
        if configuration.origin(name) != "default" and not configuration.overridden_by(name)
    }
    if "listen" in given:
        given["listen"] = tuple(_INHERITED.sub("tcp:0", text) for text in given["listen"])
    return given
