"""Tests that Twisted has the private attributes that the HTTP servers use.

A Twisted release that renames one fails this test instead of the server's start. Only
`http.twisted_web.site`, `http.socket_writer` and `eager_writer` use such attributes.
"""

from __future__ import annotations

import inspect
from typing import Any

from twisted.internet import tcp, unix
from twisted.internet.abstract import FileDescriptor
from twisted.trial.unittest import SynchronousTestCase
from twisted.web import http
from twisted.web.http import HTTPChannel


class PrivateAttributeTests(SynchronousTestCase):
    """Names of attributes, and the classes that set them."""

    def test_http_channel(self) -> None:
        channel: Any = HTTPChannel()
        for name in (
            "_buffer",
            "_dataBuffer",
            "_finishRequestBody",
            "_receivedHeaderCount",
            "_receivedHeaderSize",
            "_respondToBadRequestAndDisconnect",
            "_send100Continue",
            "_transferDecoder",
            "abortTimeout",
            "clearLineBuffer",
            "line_mode",
            "maxHeaders",
            "requests",
            "totalHeadersSize",
        ):
            self.assertTrue(hasattr(channel, name), name)

    def test_attributes_that_methods_of_http_channel_set(self) -> None:
        source = inspect.getsource(HTTPChannel)
        for name in ("_command", "_path", "_networkProducer", "_abortingCall", "length"):
            self.assertIn(f"self.{name} = ", source)

    def test_generic_channel(self) -> None:
        generic: Any = http._GenericHTTPChannelProtocol(HTTPChannel())
        for name in ("_channel", "_negotiatedProtocol"):
            self.assertTrue(hasattr(generic, name), name)

    def test_buffers_of_tcp_transports(self) -> None:
        source = inspect.getsource(FileDescriptor)
        for name in ("_tempDataBuffer", "_tempDataLen", "dataBuffer", "offset"):
            self.assertIn(name, source)
        for transport in (tcp.Server, unix.Client, unix.Server):
            self.assertTrue(hasattr(transport, "TLS"))
