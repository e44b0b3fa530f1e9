"""Test case with authenticated streams, for both HTTP servers."""

from __future__ import annotations

from typing import Any, ClassVar

from twisted.cred.checkers import ICredentialsChecker
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from durable_streams_tw.auth.grants import Grants, grants_of
from durable_streams_tw.auth.identities import IBearerToken, Identity, Rejected
from durable_streams_tw.embedded.api import DurableStreams
from durable_streams_tw.http.settings import Settings
from tests.http.http1.connection_case import FactoryClient
from tests.http.server_fixture import MORNING, ROOT, Answer, Client, at_once


@implementer(ICredentialsChecker)
class FakeTokenChecker:
    """Checker whose tokens are names; those in ``later`` are checked asynchronously."""

    credentialInterfaces = (IBearerToken,)

    def __init__(self) -> None:
        self.known: dict[str, Identity | Exception] = {}
        self.later: dict[str, Deferred[Any]] = {}

    def requestAvatarId(self, credentials: Any) -> Deferred[Any]:
        """Return the identity of a token."""
        token = credentials.token
        if token in self.later:
            return self.later[token]
        found = self.known.get(token, Rejected("the token is not known"))
        return fail(found) if isinstance(found, Exception) else succeed(found)


def granting(*grants: tuple[str, str]) -> Grants:
    """Return grants such as ``("jobs", "read append")``."""
    return grants_of(
        [{"path": path, "verbs": verbs.split()} for path, verbs in grants], strict=True
    )


class AuthorizationCase(SynchronousTestCase):
    """Test case with streams that require tokens; ``fast`` selects the HTTP server.

    The token ``root`` has all grants.
    """

    fast: ClassVar[bool] = True
    settings = Settings()
    asks = True

    def setUp(self) -> None:
        self.clock = Clock()
        self.clock.rightNow = MORNING
        self.tokens = FakeTokenChecker()
        self.streams = DurableStreams(
            settings=self.settings,
            reactor=self.clock,
            in_thread=at_once,
            checkers=(self.tokens,) if self.asks else (),
        )
        self.streams.startService()
        self.site: Any = self.streams.http_factory() if self.fast else self.streams.site()
        self.clients: list[Client] = []
        everything = "read append create delete subscribe list metrics"
        self.give("root", ("", everything))

    def tearDown(self) -> None:
        """Check that no reader and no timer is left."""
        for client in self.clients:
            client.leave()
        self.clock.advance(0)

    def give(self, token: str, *grants: tuple[str, str], ends: float | None = None) -> None:
        """Add a token."""
        expires_at = None if ends is None else MORNING + ends
        self.tokens.known[token] = Identity(token, granting(*grants), expires_at)

    def connect(self) -> Client:
        """Open a connection."""
        client = FactoryClient(self.site) if self.fast else Client(self.site)
        self.clients.append(client)
        return client

    def ask(
        self,
        method: str,
        path: str,
        token: str | None = None,
        body: bytes | None = None,
        **fields: str,
    ) -> Answer:
        """Send one request on a new connection. ``Stream_Closed="true"`` is a header."""
        client = self.connect()
        answer = client.ask(method, ROOT + path, self.header(token, fields), body)
        client.leave()
        return answer

    def header(self, token: str | None, fields: dict[str, str]) -> dict[str, str]:
        """Return the headers of a request with a token."""
        header = {name.replace("_", "-"): value for name, value in fields.items()}
        if token is not None:
            header["Authorization"] = f"Bearer {token}"
        return header

    def put(self, path: str, body: bytes = b"") -> None:
        """Create a stream."""
        answer = self.ask("PUT", path, "root", body, Content_Type="text/plain")
        assert answer.status == 201, answer

    def status(self, *given: Any, **fields: str) -> int:
        """Return the status of one request."""
        asked: Any = self.ask
        status: int = asked(*given, **fields).status
        return status


def both_servers(case: type[Any]) -> tuple[type[Any], type[Any]]:
    """Run a test case with both HTTP servers."""
    fast = type(f"Fast{case.__name__}", (case,), {"fast": True})
    slow = type(f"Web{case.__name__}", (case,), {"fast": False})
    for one in (fast, slow):
        one.__module__ = case.__module__
    return fast, slow
