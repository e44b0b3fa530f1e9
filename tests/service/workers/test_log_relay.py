"""Tests of log events that travel from a worker to the supervisor."""

from __future__ import annotations

import io
import json
import os
from typing import Any

from twisted.internet.testing import StringTransport
from twisted.logger import LogEvent, Logger, textFileLogObserver
from twisted.trial.unittest import SynchronousTestCase

from durable_streams_tw.service.workers.log_relay import LogRelay, publish
from durable_streams_tw.service.workers.messages import (
    LogRecord,
    MessageProtocol,
    decode_for_supervisor,
)
from durable_streams_tw.telemetry.logs import JSONLog


class LogRelayTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.events: list[LogEvent] = []
        receiver: Any = MessageProtocol(decode_for_supervisor, self.received, lambda: None)
        sender: Any = MessageProtocol(decode_for_supervisor, lambda _: None, lambda: None)
        self.receiver, self.sender = receiver, sender
        self.transport = StringTransport()
        self.transport.connected = True
        self.sender.makeConnection(self.transport)
        self.relay = LogRelay(self.sender)
        self.log = Logger("worker.module", observer=self.relay)

    def received(self, message: object) -> None:
        assert isinstance(message, LogRecord)
        publish(message, "front-1", self.events.append)

    def deliver(self) -> list[LogEvent]:
        self.receiver.dataReceived(self.transport.value())
        self.transport.clear()
        events, self.events = self.events, []
        return events

    def test_text(self) -> None:
        """A line of a text log names the worker, the source and the level."""
        self.log.warn("{count} streams of {thing}", count=3, thing=object())
        (event,) = self.deliver()
        written = io.StringIO()
        textFileLogObserver(written)(event)
        self.assertIn("[front-1: worker.module#warn] 3 streams of <object", written.getvalue())

    def test_json(self) -> None:
        """An entry of a JSON log has the worker, the values and the failure."""
        try:
            raise ZeroDivisionError("in a worker")
        except ZeroDivisionError:
            self.log.failure("Could not divide {what}", what="a cake")
        (event,) = self.deliver()
        read, write = os.pipe()
        JSONLog(write)(event)
        os.close(write)
        with os.fdopen(read, "rb") as file:
            entry = json.loads(file.read())
        self.assertEqual(entry["worker"], "front-1")
        self.assertEqual(entry["source"], "worker.module")
        self.assertEqual(
            (entry["message"], entry["level"]), ("Could not divide a cake", "critical")
        )
        self.assertEqual(entry["what"], "a cake")
        self.assertEqual(entry["error"], "builtins.ZeroDivisionError")
        self.assertIn("in a worker", entry["trace"])

    def test_slow_log(self) -> None:
        """While the supervisor does not read, events are dropped and later counted."""
        self.relay.pauseProducing()
        for _ in range(5):
            self.log.info("not read")
        self.assertEqual(self.deliver(), [])
        self.relay.resumeProducing()
        self.log.info("again")
        self.assertEqual([event["log_format"] for event in self.deliver()], ["again"])
        self.assertEqual(self.relay.dropped, 5)
