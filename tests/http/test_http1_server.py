"""Tests of the twisted.web site, repeated with the HTTP/1.1 engine."""

from __future__ import annotations

from types import ModuleType
from typing import Any

from durable_streams_tw.live import limits
from tests.http import server_fixture, test_invalid_input
from tests.http.twisted_web import test_live, test_resource, test_site


class Http1ServerFixture(server_fixture.ServerFixture):
    """Fixture whose streams are behind the HTTP/1.1 engine and all else behind a site."""

    def __init__(self, *arguments: Any, **others: Any) -> None:
        server_fixture.ServerFixture.__init__(self, *arguments, **others)
        factory: Any = self.streams.http_factory()
        self.site = factory


class SharedTests:
    """Tests of a module, with another server."""

    module: ModuleType

    def setUp(self) -> None:
        """Have the module build servers of the HTTP/1.1 engine."""
        case: Any = self
        case.patch(self.module, "ServerFixture", Http1ServerFixture)
        super().setUp()  # type: ignore[misc]


class LongPollTests(SharedTests, test_live.LongPollTests):
    """Long-polls."""

    module = test_live


class EventStreamTests(SharedTests, test_live.EventStreamTests):
    """Event streams."""

    module = test_live

    def test_full_from_the_first_write(self) -> None:
        """A transport that is full from the head on pauses the reader."""
        self.fixture.put("big", "application/octet-stream", b"x" * 1_000_000)
        transport: Any = self.client.transport
        write = transport.write

        def full(data: bytes) -> None:
            write(data)
            transport.producer.pauseProducing()

        transport.write = full
        self.follow("big")
        size = len(transport.value())
        self.assertLess(size, 2 * limits.READ_PIECE)
        for _ in range(20):
            transport.producer.resumeProducing()
            self.fixture.turn()
        self.assertGreater(len(transport.value()), 1_000_000)


class LeavingWriterTests(SharedTests, test_live.LeavingWriterTests):
    """Writers that disconnect."""

    module = test_live


class RawPathTests(SharedTests, test_resource.RawPathTests):
    """Raw paths."""

    module = test_resource


class LocationTests(SharedTests, test_resource.LocationTests):
    """Location of a new stream."""

    module = test_resource


class InvalidInputTests(SharedTests, test_invalid_input.InvalidInputTests):
    """Invalid input."""

    module = test_invalid_input


class HeadTests(SharedTests, test_site.HeadTests):
    """Malformed heads."""

    module = test_site


class BodyTests(SharedTests, test_site.BodyTests):
    """Bodies that are too large."""

    module = test_site
