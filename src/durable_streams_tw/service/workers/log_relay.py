"""Log events of workers, which appear in the log of the supervisor."""

from __future__ import annotations

from typing import Any

from twisted.logger import (
    ILogObserver,
    LogEvent,
    Logger,
    eventAsJSON,
    eventFromJSON,
    globalLogPublisher,
)
from zope.interface import implementer

from durable_streams_tw.service.workers.messages import LogRecord, MessageProtocol

_log = Logger()


@implementer(ILogObserver)
class LogRelay:
    """Log observer of a worker that sends events to the supervisor.

    While the supervisor does not read, events are dropped and counted, so that they do not fill
    the memory.
    """

    def __init__(self, protocol: MessageProtocol) -> None:
        self._protocol = protocol
        self._paused = False
        #: Number of events that were dropped.
        self.dropped = 0
        self._reported = 0

    def __call__(self, event: LogEvent) -> None:
        """Send an event."""
        if self._paused:
            self.dropped += 1
            return
        self._protocol.send(LogRecord(eventAsJSON(event)))

    # -- IPushProducer --------------------------------------------------------------------------

    def pauseProducing(self) -> None:
        """Drop events from now on."""
        self._paused = True

    def resumeProducing(self) -> None:
        """Send events again."""
        self._paused = False
        if self.dropped > self._reported:
            count, self._reported = self.dropped - self._reported, self.dropped
            _log.warn("{count} log events were dropped: the log was too slow", count=count)

    def stopProducing(self) -> None:
        """Do nothing: the process ends."""


def publish(record: LogRecord, worker: str, publisher: Any = globalLogPublisher) -> None:
    """Add an event of a worker to the log of this process, with the name of the worker."""
    event = eventFromJSON(record.event)
    level = event.get("log_level")
    namespace = event.get("log_namespace", "-")
    event["worker"] = worker
    # Prefix of the line in a text log.
    event["log_system"] = f"{worker}: {namespace}#{getattr(level, 'name', 'info')}"
    publisher(event)
