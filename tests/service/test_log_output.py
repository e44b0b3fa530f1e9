"""Tests of the log's format and level."""

from __future__ import annotations

import io
import json
import tempfile
from pathlib import Path

from twisted.logger import ILogObserver, Logger, LogLevel, LogPublisher
from twisted.trial.unittest import SynchronousTestCase

from durable_streams_tw.service.configuration import Configuration
from durable_streams_tw.service.log_output import stream_log, twistd_log
from durable_streams_tw.service.sources import preset
from durable_streams_tw.telemetry.access_log import AccessLog


def configuration(**settings: str) -> Configuration:
    """Return a configuration with these settings; underscores stand for hyphens."""
    values = {name.replace("_", "-"): text for name, text in settings.items()}
    return Configuration([preset("test", values)])


def log_all(observer: ILogObserver) -> None:
    """Log events of every level by the server, by Twisted, and by the access log."""
    publisher = LogPublisher(observer)
    for namespace in ("durable_streams_tw.service", "twisted.internet", "log_legacy"):
        log = Logger(namespace=namespace, observer=publisher)
        for level in LogLevel.iterconstants():
            log.emit(level, "{namespace}-{name}", namespace=namespace, name=level.name)
    Logger(namespace=f"{AccessLog.__module__}.AccessLog", observer=publisher).info("access")


class LevelTests(SynchronousTestCase):
    """Events that each level lets through."""

    def lines(self, level: str) -> list[str]:
        """Return the messages of a text log at a level."""
        stream = io.StringIO()
        log_all(stream_log(configuration(log_level=level), stream))
        return [line.split("] ")[-1] for line in stream.getvalue().splitlines()]

    def test_info(self) -> None:
        """Level info writes events of the server from info up, and of Twisted from warn up."""
        found = self.lines("info")
        self.assertIn("durable_streams_tw.service-info", found)
        self.assertNotIn("durable_streams_tw.service-debug", found)
        for namespace in ("twisted.internet", "log_legacy"):
            self.assertNotIn(f"{namespace}-info", found)
            self.assertIn(f"{namespace}-warn", found)

    def test_error(self) -> None:
        """Level error drops warnings; accesses are written at every level."""
        found = self.lines("error")
        self.assertEqual(
            found,
            [
                f"{namespace}-{name}"
                for namespace in ("durable_streams_tw.service", "twisted.internet", "log_legacy")
                for name in ("error", "critical")
            ]
            + ["access"],
        )

    def test_debug(self) -> None:
        """Level debug writes debug events of the server."""
        self.assertIn("durable_streams_tw.service-debug", self.lines("debug"))


class TwistdLogTests(SynchronousTestCase):
    """Log under twistd."""

    def test_own_observer(self) -> None:
        """twistd's --logger and --syslog replace the log."""
        for options in (None, {"logger": "x.y"}, {"syslog": True}):
            self.assertEqual(twistd_log(configuration(), options), (None, None))

    def test_file(self) -> None:
        """--logfile gets text or JSON, and can be reopened after it was renamed."""
        for log_format in ("text", "json"):
            folder = Path(tempfile.mkdtemp())
            options = {"logfile": str(folder / "log"), "nodaemon": False}
            observer, reopen = twistd_log(configuration(log_format=log_format), options)
            assert observer is not None
            assert reopen is not None
            log_all(observer)
            (folder / "log").rename(folder / "old")
            reopen()
            log_all(observer)
            old, new = (folder / "old").read_text(), (folder / "log").read_text()
            self.assertEqual(len(old.splitlines()), len(new.splitlines()))
            if log_format == "json":
                messages = [json.loads(line)["message"] for line in new.splitlines()]
                self.assertIn("access", messages)
                self.assertNotIn("twisted.internet-info", messages)
            else:
                self.assertIn("durable_streams_tw.service-info", new)
