"""TLS endpoints whose certificates can be replaced while they serve.

An ``ssl:`` endpoint reads its files when its string is parsed, and keeps what it read. Here the
string is kept too, and parsed again when somebody asks for it: connections that are made from
then on get what the files hold now, those that are there go on as they are. Files that cannot
be used change nothing.
"""

from __future__ import annotations

from typing import Any, Final

from twisted.internet.defer import Deferred, execute
from twisted.internet.endpoints import SSL4ServerEndpoint, serverFromString
from twisted.internet.interfaces import (
    IListeningPort,
    IOpenSSLServerConnectionCreator,
    IProtocolFactory,
    IStreamServerEndpoint,
)
from zope.interface import implementer

KIND: Final = "ssl:"
"""What the strings of such endpoints begin with."""


class UnusableCertificate(Exception):
    """A certificate cannot be used; the message is a sentence."""


class _Noted:
    """Stands in for a reactor, to learn what an endpoint would listen with."""

    port = 0
    options: Any = None
    backlog = 50
    interface = ""

    def listenSSL(
        self,
        port: int,
        factory: IProtocolFactory,
        contextFactory: Any,
        backlog: int = 50,
        interface: str = "",
    ) -> None:
        self.port, self.options = port, contextFactory
        self.backlog, self.interface = backlog, interface


def _read(text: str) -> _Noted:
    """What a string says now. Raises `UnusableCertificate`."""
    noted: Any = _Noted()
    nobody: Any = None
    try:
        endpoint = serverFromString(noted, text)
        assert isinstance(endpoint, SSL4ServerEndpoint), "what ssl: stands for"
        endpoint.listen(nobody)
        # Made now, so that a key which is not the certificate's is noticed.
        noted.options.getContext()
    except Exception as error:
        raise UnusableCertificate(_why(error)) from error
    found: _Noted = noted
    return found


def _why(error: Any) -> str:
    if isinstance(error, OSError) and error.strerror and error.filename:
        return f"{_text(error.filename)}: {error.strerror}"
    if type(error).__module__.startswith("OpenSSL."):
        # OpenSSL's own words are lists of codes.
        return "the key or the certificate is no PEM file, or they do not belong together"
    return str(error) or type(error).__name__


def _text(filename: Any) -> str:
    return filename.decode("utf-8", "replace") if isinstance(filename, bytes) else str(filename)


@implementer(IOpenSSLServerConnectionCreator)
class _Newest:
    """Begins connections with the certificate that was read last."""

    def __init__(self, options: Any) -> None:
        self.options = options

    def serverConnectionForTLS(self, tlsProtocol: Any) -> Any:
        options = self.options
        if hasattr(options, "serverConnectionForTLS"):
            return options.serverConnectionForTLS(tlsProtocol)
        # Options of older Twisteds are context factories only.
        from OpenSSL.SSL import Connection

        return Connection(options.getContext(), None)


@implementer(IStreamServerEndpoint)
class TLSEndpoint:
    """An ``ssl:`` endpoint that can read its files anew.

    Raises `UnusableCertificate` where they cannot be used.
    """

    def __init__(self, reactor: Any, text: str) -> None:
        self.text = text
        self._reactor = reactor
        self._noted = _read(text)
        self._newest = _Newest(self._noted.options)

    def listen(self, protocolFactory: IProtocolFactory) -> Deferred[IListeningPort]:
        """Listen, as the string says."""
        listening: Deferred[IListeningPort] = execute(
            self._reactor.listenSSL,
            self._noted.port,
            protocolFactory,
            contextFactory=self._newest,
            backlog=self._noted.backlog,
            interface=self._noted.interface,
        )
        return listening

    def reload(self) -> None:
        """Read key, certificate and chain anew, for connections that are made from now on.

        Raises `UnusableCertificate`, and goes on with what was read before.
        """
        self._newest.options = _read(self.text).options
