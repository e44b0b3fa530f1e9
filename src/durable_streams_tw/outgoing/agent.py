"""Agents and body producer for requests without content coding."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred, succeed
from twisted.web.http_headers import Headers
from twisted.web.iweb import IAgent, IBodyProducer, IResponse
from zope.interface import implementer


@implementer(IBodyProducer)
class WholeBody:
    """Body producer for bytes in memory, written at once."""

    def __init__(self, body: bytes) -> None:
        self._body = body
        self.length = len(body)

    def startProducing(self, consumer: Any) -> Deferred[None]:
        """Write the body."""
        consumer.write(self._body)
        return succeed(None)

    def pauseProducing(self) -> None:
        """Do nothing: the body has been written."""

    def resumeProducing(self) -> None:
        """Do nothing: the body has been written."""

    def stopProducing(self) -> None:
        """Do nothing: the body has been written."""


@implementer(IAgent)
class IdentityAgent:
    """Agent that sends ``Accept-Encoding: identity``.

    With ``undecoded`` it also hides the content coding of responses: treq would expand a small
    compressed response to any size.
    """

    def __init__(self, agent: IAgent, *, undecoded: bool = False) -> None:
        self._agent = agent
        self._undecoded = undecoded

    def request(
        self,
        method: bytes,
        uri: bytes,
        headers: Headers | None = None,
        bodyProducer: IBodyProducer | None = None,
    ) -> Deferred[IResponse]:
        """Send a request for a response without compression."""
        asked = Headers() if headers is None else headers.copy()
        asked.setRawHeaders(b"accept-encoding", [b"identity"])
        requested: Deferred[IResponse] = self._agent.request(method, uri, asked, bodyProducer)
        return requested.addCallback(_without_coding) if self._undecoded else requested


def _without_coding(response: IResponse) -> IResponse:
    response.headers.removeHeader(b"content-encoding")
    return response
