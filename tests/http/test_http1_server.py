"""Tests of the twisted.web site, repeated with the HTTP/1.1 engine."""

from __future__ import annotations

from types import ModuleType
from typing import Any

from durable_streams_tw.live import limits
from tests.http import server_rig, test_bad_input, test_live
from tests.http.twisted_web import test_resource as test_tree
from tests.http.twisted_web import test_site


class Http1ServerRig(server_rig.ServerRig):
    """Streams behind the HTTP/1.1 engine, and behind a site of their own what it hands over."""

    def __init__(self, *arguments: Any, **others: Any) -> None:
        server_rig.ServerRig.__init__(self, *arguments, **others)
        door: Any = self.streams.http_factory()
        self.site = door


class Moved:
    """Tests of a module, with another server."""

    module: ModuleType

    def setUp(self) -> None:
        """Have the module build servers of the HTTP/1.1 engine."""
        case: Any = self
        case.patch(self.module, "ServerRig", Http1ServerRig)
        super().setUp()  # type: ignore[misc]


class LongPollTests(Moved, test_live.LongPollTests):
    """Long-polls."""

    module = test_live


class EventStreamTests(Moved, test_live.EventStreamTests):
    """Event streams."""

    module = test_live

    def test_full_from_the_first_write(self) -> None:
        """A transport that is full from the head on pauses the reader too."""
        self.rig.put("big", "application/octet-stream", b"x" * 1_000_000)
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
            self.rig.turn()
        self.assertGreater(len(transport.value()), 1_000_000)


class LeavingWriterTests(Moved, test_live.LeavingWriterTests):
    """Writers that leave."""

    module = test_live


class RawPathTests(Moved, test_tree.RawPathTests):
    """Raw paths."""

    module = test_tree


class LocationTests(Moved, test_tree.LocationTests):
    """Where a new stream is."""

    module = test_tree


class BadInputTests(Moved, test_bad_input.BadInputTests):
    """Bad input."""

    module = test_bad_input


class HeadTests(Moved, test_site.HeadTests):
    """Heads that are no heads."""

    module = test_site


class BodyTests(Moved, test_site.BodyTests):
    """Bodies that are too large."""

    module = test_site
