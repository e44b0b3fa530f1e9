"""What is sent: a whole body, and a wish for plain bytes."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred, succeed
from twisted.web.http_headers import Headers
from twisted.web.iweb import IAgent, IBodyProducer, IResponse
from zope.interface import implementer


@implementer(IBodyProducer)
class WholeBody:
    """A body that is there, and is written in one piece."""

    def __init__(self, body: bytes) -> None:
        self._body = body
        self.length = len(body)

    def startProducing(self, consumer: Any) -> Deferred[None]:
        """Write it."""
        consumer.write(self._body)
        return succeed(None)

    def pauseProducing(self) -> None:
        """It has been written."""

    def resumeProducing(self) -> None:
        """There is no more of it."""

    def stopProducing(self) -> None:
        """There is nothing to stop."""


@implementer(IAgent)
class IdentityAgent:
    """An agent that asks for no compression."""

    def __init__(self, agent: IAgent) -> None:
        self._agent = agent

    def request(
        self,
        method: bytes,
        uri: bytes,
        headers: Headers | None = None,
        bodyProducer: IBodyProducer | None = None,
    ) -> Deferred[IResponse]:
        """Ask, and for plain bytes."""
        asked = Headers() if headers is None else headers.copy()
        asked.setRawHeaders(b"accept-encoding", [b"identity"])
        requested: Deferred[IResponse] = self._agent.request(method, uri, asked, bodyProducer)
        return requested


class UndecodedAgent(IdentityAgent):
    """An agent whose responses nobody decompresses: few bytes could become many."""

    def request(
        self,
        method: bytes,
        uri: bytes,
        headers: Headers | None = None,
        bodyProducer: IBodyProducer | None = None,
    ) -> Deferred[IResponse]:
        """Ask, and for no compression."""
        requested = IdentityAgent.request(self, method, uri, headers, bodyProducer)
        return requested.addCallback(_without_coding)


def _without_coding(response: IResponse) -> IResponse:
    response.headers.removeHeader(b"content-encoding")
    return response
