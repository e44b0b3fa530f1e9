"""TLS endpoints that can reload their certificates.

Twisted's ``ssl:`` endpoint reads its files once, when its string is parsed. `TLSEndpoint` parses
the string again on `TLSEndpoint.reload`: new connections get the new certificate, open ones keep
theirs. If the files are unusable, the loaded certificate stays.
"""

from __future__ import annotations

from typing import Any, Final

from twisted.internet import interfaces
from twisted.internet.defer import Deferred, execute
from twisted.internet.endpoints import SSL4ServerEndpoint, serverFromString
from zope.interface import implementer

KIND: Final = "ssl:"
"""Prefix of the endpoint strings."""


class UnusableCertificate(Exception):
    """A certificate cannot be loaded; the message says why."""


class _RecordingReactor:
    """Fake reactor that records the arguments of ``listenSSL``."""

    port = 0
    options: Any = None
    backlog = 50
    interface = ""

    def listenSSL(
        self,
        port: int,
        factory: interfaces.IProtocolFactory,
        contextFactory: Any,
        backlog: int = 50,
        interface: str = "",
    ) -> None:
        self.port, self.options = port, contextFactory
        self.backlog, self.interface = backlog, interface


def _read(text: str) -> _RecordingReactor:
    """Parse an endpoint string and load its files. Raises `UnusableCertificate`."""
    recorder: Any = _RecordingReactor()
    no_factory: Any = None
    try:
        endpoint = serverFromString(recorder, text)
        assert isinstance(endpoint, SSL4ServerEndpoint), "ssl: is this class"
        endpoint.listen(no_factory)
        # Create the context now, which fails if the key does not match the certificate.
        recorder.options.getContext()
    except Exception as error:
        raise UnusableCertificate(why_unusable(error)) from error
    recorded: _RecordingReactor = recorder
    return recorded


def why_unusable(error: Any) -> str:
    """Return the reason for which an endpoint string cannot be used."""
    if isinstance(error, OSError) and error.strerror and error.filename:
        return f"{_text(error.filename2 or error.filename)}: {error.strerror}"
    if type(error).__module__.startswith("OpenSSL."):
        # The messages of OpenSSL are lists of codes.
        return "the key or certificate is not a PEM file, or they do not match"
    return str(error) or type(error).__name__


def _text(filename: Any) -> str:
    return filename.decode("utf-8", "replace") if isinstance(filename, bytes) else str(filename)


@implementer(interfaces.IOpenSSLServerConnectionCreator)
class _ReloadableContext:
    """Creator of TLS connections with the certificate loaded last."""

    def __init__(self, options: Any) -> None:
        self.options = options

    def serverConnectionForTLS(self, tlsProtocol: Any) -> Any:
        options = self.options
        if hasattr(options, "serverConnectionForTLS"):
            return options.serverConnectionForTLS(tlsProtocol)
        # Options of older versions of Twisted are only context factories.
        from OpenSSL.SSL import Connection

        return Connection(options.getContext(), None)


@implementer(interfaces.IStreamServerEndpoint)
class TLSEndpoint:
    """``ssl:`` endpoint that can reload its key and certificate.

    Raises `UnusableCertificate` if they cannot be loaded.
    """

    def __init__(self, reactor: Any, text: str) -> None:
        self.text = text
        self._reactor = reactor
        self._recorded = _read(text)
        self._context = _ReloadableContext(self._recorded.options)

    def listen(
        self, protocolFactory: interfaces.IProtocolFactory
    ) -> Deferred[interfaces.IListeningPort]:
        """Listen on the port of the endpoint string."""
        listening: Deferred[interfaces.IListeningPort] = execute(
            self._reactor.listenSSL,
            self._recorded.port,
            protocolFactory,
            contextFactory=self._context,
            backlog=self._recorded.backlog,
            interface=self._recorded.interface,
        )
        return listening

    def reload(self) -> None:
        """Load key, certificate and chain again, for new connections.

        Raises `UnusableCertificate` and keeps the loaded certificate if that fails.
        """
        self._context.options = _read(self.text).options
