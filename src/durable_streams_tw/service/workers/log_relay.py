"""Log events of workers, which appear in the log of the supervisor."""

from __future__ import annotations

from typing import Any

from twisted.logger import (
    ILogObserver,
    LogEvent,
    Logger,
    LogLevel,
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
        self._dropped = 0

    def __call__(self, event: LogEvent) -> None:
        """Send an event of level info or above."""
        if event.get("log_level") is LogLevel.debug:
            return
        if self._paused:
            self._dropped += 1
            return
        self._protocol.send(LogRecord(eventAsJSON(event)))

    # -- IPushProducer --------------------------------------------------------------------------

    def pauseProducing(self) -> None:
        """Drop events from now on."""
        self._paused = True

    def resumeProducing(self) -> None:
        """Send events again, and report how many were dropped."""
        self._paused = False
        dropped, self._dropped = self._dropped, 0
        if dropped:
            _log.warn("{count} log events were dropped: the log was too slow", count=dropped)

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
