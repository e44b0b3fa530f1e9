"""Admission: what a request has to show before it is carried out.

Stands before the stream operations, at every door alike, and is not there at all where nothing
is asked of anybody. In this order:

1. the name that the request is for (`auth.origins`): a page that has rebound its own name is
   turned away before anything else is looked at;
2. the rate of the client, by its address while nobody knows who it is, then by its name;
3. the token; who has it;
4. the page that a request comes from, where what makes it trusted is not the page's own;
5. what the client is granted, for the request as the operations will read it.

A program that holds the streams in its own process is asked nothing.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from msgspec import Struct
from twisted.cred.error import UnauthorizedLogin
from twisted.internet.defer import CancelledError, Deferred, maybeDeferred
from twisted.internet.interfaces import IReactorTime
from twisted.python.failure import Failure

from durable_streams_tw.auth import bearer_tokens
from durable_streams_tw.auth.grants import Grants, Verb
from durable_streams_tw.auth.identities import BearerToken, CannotTell, Identity, Rejected
from durable_streams_tw.auth.limits import MAX_BEARER, TOKEN_CACHE
from durable_streams_tw.auth.origins import AllowedHosts, AllowedOrigins
from durable_streams_tw.auth.rate_limits import Rate, RateLimiter, client_of
from durable_streams_tw.clocks import Seconds
from durable_streams_tw.datastructures.bounded_cache import BoundedCache
from durable_streams_tw.http.handlers import required_grants
from durable_streams_tw.http.handlers import subscriptions as handlers_subscriptions
from durable_streams_tw.http.handlers.required_grants import WAKE_KINDS, Coverage
from durable_streams_tw.http.handlers.streams import Decision, Respond, StreamHandler
from durable_streams_tw.http.handlers.token_deadline import until
from durable_streams_tw.http.headers import ResponseHeaders
from durable_streams_tw.http.messages import Request, Response
from durable_streams_tw.protocol.errors import Problem, Refusal, Refused
from durable_streams_tw.protocol.streams.parsing import HeaderMap
from durable_streams_tw.protocol.subscriptions import parsing
from durable_streams_tw.protocol.subscriptions.control_paths import (
    ControlPath,
    ControlResource,
    is_control,
    parse_control_path,
)
from durable_streams_tw.protocol.subscriptions.state import GONE
from durable_streams_tw.subscriptions.describe import glob_and_explicit_paths
from durable_streams_tw.subscriptions.service import Subscriptions
from durable_streams_tw.subscriptions.tokens import TOKEN_MISSING

if TYPE_CHECKING:
    from twisted.cred.checkers import ICredentialsChecker

_REALM: Final = b'Bearer realm="durable-streams"'
_HOST: Final = Refusal(Problem.HOST_NOT_ALLOWED, "this server is not called by that name")
_CROSS_SITE: Final = Refusal(
    Problem.CROSS_SITE, "pages of that origin may change nothing here: see --cors-origin"
)
_MISSING: Final = Refusal(
    Problem.UNAUTHORIZED,
    "a token is needed: Authorization: Bearer <token>",
    ((b"WWW-Authenticate", _REALM),),
)
_ENDED: Final = "the token has expired"
_TAKEN: Final = Refusal(
    Problem.SUBSCRIPTION_ALREADY_EXISTS, "the subscription exists with another configuration"
)


class AccessPolicy(Struct, frozen=True, kw_only=True):
    """What is asked of requests.

    ``checkers`` know tokens (`auth.identities.IBearerToken`); without any, everybody may do
    everything. ``cookie`` is the name of one that may hold a token. ``hosts`` and ``origins``
    see `auth.origins`; ``rate`` is for each client. ``live`` is how long a reader may follow
    before it has to ask again, in seconds.
    """

    checkers: Sequence[ICredentialsChecker] = ()
    cookie: bytes | None = None
    hosts: AllowedHosts
    origins: AllowedOrigins
    rate: Rate | None = None
    trust_proxy: bool = False
    live: float

    def __bool__(self) -> bool:
        """Whether anything is asked at all."""
        return bool(self.checkers or self.hosts or self.origins or self.rate)


class ClientRequest(Struct, frozen=True):
    """A request, as far as it matters who sends it. ``client`` is an address; ``authority`` the
    host and port that the client sees."""

    client: str
    method: bytes
    headers: HeaderMap
    authority: bytes


Judged = Callable[[Identity | None], Any]


class AuthorizedHandler:
    """Stream operations that ask first. ``operations`` carry out what is admitted."""

    def __init__(
        self,
        operations: StreamHandler,
        policies: ResponseHeaders,
        subscriptions: Subscriptions,
        conditions: AccessPolicy,
        clock: IReactorTime,
        wall: Seconds,
    ) -> None:
        self._operations = operations
        self._policies = policies
        self._subscriptions = subscriptions
        self._conditions = conditions
        self._clock = clock
        self._wall = wall
        self._rates = None if conditions.rate is None else RateLimiter(conditions.rate)
        # Tokens that were good a moment ago, by their hash: their owners' addresses do not pay.
        self._known: BoundedCache[bytes, None] = BoundedCache(TOKEN_CACHE)
        self.refuse = operations.refuse
        self.failure = operations.failure

    # -- streams ------------------------------------------------------------------------------

    def serving(self, host: str | None) -> Respond:
        """What answers the requests of a connection from an address."""
        return partial(self._respond, host)

    def respond(self, request: Request) -> Response | Deferred[Response]:
        """Answer a request from nobody knows where. Fails only when it is cancelled."""
        return self._respond(None, request)

    def decide(self, host: str | None, request: Request) -> Decision | Deferred[Decision]:
        """Decide by the head who a client is and what it may do. The rate counts it once."""
        decision: Decision | Deferred[Decision] = self._guarded(
            request, lambda: self._examined(host, request, self._decided, self._decided_of_control)
        )
        return decision

    def _respond(self, host: str | None, request: Request) -> Response | Deferred[Response]:
        answer: Response | Deferred[Response] = self._guarded(
            request, lambda: self._examined(host, request, self._stream, self._control)
        )
        return answer

    def _examined(
        self,
        host: str | None,
        request: Request,
        stream: Callable[[Request, Identity | None], Any],
        control: Callable[[Request, ControlPath, Identity | None], Any],
    ) -> Any:
        """Go on with ``stream`` or ``control`` once it is known who it is; or say why not."""
        say = partial(self._say, request)
        if request.method == b"OPTIONS":
            # A preflight carries no credentials, and is told nothing of any stream.
            if not self._conditions.hosts.allow(request.headers):
                return say(_HOST)
            return self._operations.respond(request)
        visit = self._visit(host, request.method, request.headers, request.url)
        if is_control(request.path):
            path = parse_control_path(request.path)
            open_to_all = required_grants.is_open(path, request.method) or path.place in WAKE_KINDS
            return self.examine(visit, partial(control, request, path), say, open_to_all)
        return self.examine(visit, partial(stream, request), say)

    def _guarded(self, request: Request, call: Callable[[], Any]) -> Any:
        """Make a call, with an answer to whatever it fails with, now or later."""
        try:
            answer = call()
        except Exception:  # noqa: BLE001 - whatever it is, nothing is carried out
            return self._refused(Failure(), request)
        if isinstance(answer, Deferred):
            failed: Callable[[Failure, Request], Any] = self._failed
            return answer.addErrback(failed, request)
        return answer

    def _decided(self, request: Request, who: Identity | None) -> Decision:
        missing = self._missing(request, who)
        if missing is not None:
            return missing
        decision = self._operations.decide(None, request)
        if isinstance(decision, Response):
            return decision
        return lambda whole: self._guarded(whole, lambda: self._stream(whole, who))

    def _decided_of_control(
        self, request: Request, path: ControlPath, who: Identity | None
    ) -> Decision:
        decision = self._operations.decide(None, request)
        if isinstance(decision, Response):
            return decision
        # What is granted depends on the body.
        return lambda whole: self._guarded(whole, lambda: self._control(whole, path, who))

    def _failed(self, failure: Failure, request: Request) -> Response | Failure:
        # Passed on and not raised: a traceback holds frames, and they the request.
        return failure if failure.check(CancelledError) else self._refused(failure, request)

    def _refused(self, failure: Failure, request: Request) -> Response:
        if isinstance(failure.value, Refused):
            return self._say(request, failure.value.refusal)
        return self._operations.failure(failure, request.headers.get(b"origin"))

    def _say(self, request: Request, refusal: Refusal) -> Response:
        origin = request.headers.get(b"origin")
        if is_control(request.path):
            return self._policies.complete(handlers_subscriptions.refused(refusal), origin)
        return self._operations.refuse(refusal, origin)

    def _stream(self, request: Request, who: Identity | None) -> Response | Deferred[Response]:
        missing = self._missing(request, who)
        if missing is not None:
            return missing
        answer = self._operations.respond(request)
        if who is None or request.method != b"GET" or who.expires_at is None:
            return answer
        left = who.expires_at - self._wall()
        if left > self._conditions.live:
            return answer
        return until(left, answer, self._clock, lambda: self._say(request, unauthorized(_ENDED)))

    def _missing(self, request: Request, who: Identity | None) -> Response | None:
        """Say what a client is not granted."""
        if who is None:
            return None
        missing = required_grants.allowed(
            who.grants, request.method, request.path, request.headers, request.root
        )
        return None if missing is None else self._say(request, forbidden(missing))

    # -- subscriptions --------------------------------------------------------------------------

    def _control(
        self, request: Request, path: ControlPath, who: Identity | None
    ) -> Response | Deferred[Response]:
        if not self._conditions.checkers or required_grants.is_open(path, request.method):
            return self._operations.respond(request)
        if path.place in WAKE_KINDS:
            return self._wake(request, path)
        assert who is not None, "all else is asked with a token"
        if path.place in (ControlResource.NOTHING, ControlResource.KEYS):
            return self._operations.respond(request)
        name = parsing.parse_subscription_id(path.id)
        making = path.place is ControlResource.SUBSCRIPTION and request.method == b"PUT"
        missing: str | None = None
        if not who.grants.allow_somewhere(Verb.SUBSCRIBE):
            missing = "this needs subscribe"
        elif making:
            missing = required_grants.subscribing(who.grants, request.body)
        elif path.place is ControlResource.STREAMS and request.method == b"POST":
            missing = required_grants.linking(who.grants, request.body)
        if missing is not None:
            return self._say(request, forbidden(missing))
        found: Deferred[Any] = self._subscriptions.ask(
            lambda snapshot: glob_and_explicit_paths(snapshot, name)
        )
        return found.addCallback(self._covered, request, who.grants, making)

    def _covered(
        self, found: Any, request: Request, grants: Grants, making: bool
    ) -> Response | Deferred[Response]:
        """What is there under the id: a client uses it that could have made it."""
        if isinstance(found, Refusal):
            # What is not there yet may be there in a moment, and be somebody else's: so only
            # making it goes on.
            if making and found.problem is GONE.problem:
                return self._operations.respond(request)
            return self._say(request, found)
        if Coverage(*found).allowed(grants):
            return self._operations.respond(request)
        # To others it does not exist, as far as that can be kept from them.
        return self._say(request, _TAKEN if making else GONE)

    def _wake(self, request: Request, path: ControlPath) -> Response | Deferred[Response]:
        """Workers show the token of their wake, and it is looked at before anything is told."""
        name = parsing.parse_subscription_id(path.id)
        try:
            token = bearer_tokens.bearer(request.headers)
        except bearer_tokens.MalformedAuthorization:
            token = None
        if token is None:
            return self._say(request, TOKEN_MISSING)
        proof = self._subscriptions.tokens.check(token, name, WAKE_KINDS[path.place])
        if isinstance(proof, Refusal):
            return self._say(request, proof)
        return self._operations.respond(request)

    # -- whoever it is --------------------------------------------------------------------------

    def _visit(
        self, host: str | None, method: bytes, header: HeaderMap, url: bytes
    ) -> ClientRequest:
        forwarded = header.get(b"x-forwarded-for") if self._conditions.trust_proxy else None
        authority = url.split(b"/", 3)[2] if url.count(b"/") > 1 else b""
        return ClientRequest(client_of(host, forwarded), method, header, authority)

    def visit(
        self, host: str | None, method: bytes, header: HeaderMap, url: bytes
    ) -> ClientRequest:
        """What a request of any resource says of its sender. ``url`` is the absolute one."""
        return self._visit(host, method, header, url)

    def examine(
        self,
        visit: ClientRequest,
        judge: Judged,
        say: Callable[[Refusal], Response],
        open_to_all: bool = False,
    ) -> Any:
        """Find out who it is, and leave the rest to ``judge``, or ``say`` why not.

        ``judge`` is told None where nobody is asked for a token; where checkers are, that is
        what is ``open_to_all``.
        """
        conditions = self._conditions
        if not conditions.hosts.allow(visit.headers):
            return say(_HOST)
        if open_to_all or not conditions.checkers:
            wait = self._take("@" + visit.client)
            if wait:
                return say(too_many(wait))
            if not open_to_all and not self._is_near(visit, everybody=True):
                return say(_CROSS_SITE)
            return judge(None)
        ambient = False
        try:
            token = bearer_tokens.bearer(visit.headers)
            if token is None and conditions.cookie is not None:
                token = bearer_tokens.cookie(visit.headers, conditions.cookie)
                ambient = token is not None
        except bearer_tokens.MalformedAuthorization:
            token = ""
        digest = hashlib.sha256((token or "").encode("ascii")).digest()
        if not token or (self._rates is not None and digest not in self._known):
            wait = self._take("@" + visit.client)
            if wait:
                return say(too_many(wait))
        if token is None:
            return say(_MISSING)
        if not token:
            return say(unauthorized(f"a token has at most {MAX_BEARER} characters, of base64"))

        def admitted(who: Identity) -> Any:
            if who.expires_at is not None and self._wall() >= who.expires_at:
                return say(unauthorized(_ENDED))
            if self._rates is not None:
                self._remember(digest)
                wait = self._take("#" + who.name)
                if wait:
                    return say(too_many(wait))
            if ambient and not self._is_near(visit, everybody=False):
                return say(_CROSS_SITE)
            return judge(who)

        def unknown(failure: Failure) -> Response | Failure:
            self._known.pop(digest)
            return failure if failure.check(CancelledError) else say(_why(failure))

        asked = self._ask(token, 0, None)
        result = asked.result if asked.called and not asked.paused else None
        if isinstance(result, Identity):
            return admitted(result)
        found: Deferred[Any] = asked.addCallbacks(admitted, unknown)
        return found

    def _ask(self, token: str, index: int, sorry: Failure | None) -> Deferred[Any]:
        """Ask one checker after the other who has a token."""
        checker: Any = self._conditions.checkers[index]
        asked: Deferred[Any] = maybeDeferred(checker.requestAvatarId, BearerToken(token))

        def answered(who: object) -> Identity:
            if not isinstance(who, Identity):
                raise TypeError("a checker has to answer with an Identity")
            return who

        def next_one(failure: Failure) -> Failure | Deferred[Any]:
            last = index + 1 == len(self._conditions.checkers)
            if not failure.check(UnauthorizedLogin, CannotTell):
                return failure
            # Where one cannot tell, nobody else's no is final.
            doubt = failure if failure.check(CannotTell) else sorry
            return (doubt or failure) if last else self._ask(token, index + 1, doubt)

        return asked.addCallback(answered).addErrback(next_one)

    def _is_near(self, visit: ClientRequest, *, everybody: bool) -> bool:
        return self._conditions.origins.allow(
            visit.method, visit.headers, visit.authority, everybody=everybody
        )

    def _take(self, client: str) -> float:
        return 0.0 if self._rates is None else self._rates.take(client, self._clock.seconds())

    def _remember(self, digest: bytes) -> None:
        if digest not in self._known:
            self._known.put(digest, None)


def unauthorized(detail: str) -> Refusal:
    """What is said to a token that is not good."""
    field = (b"WWW-Authenticate", _REALM + b', error="invalid_token"')
    return Refusal(Problem.UNAUTHORIZED, detail, (field,))


def forbidden(detail: str) -> Refusal:
    """What is said to a client that is known, and may not."""
    field = (b"WWW-Authenticate", _REALM + b', error="insufficient_scope"')
    return Refusal(Problem.FORBIDDEN, detail, (field,))


def too_many(wait: float) -> Refusal:
    """What is said to a client that asks too often."""
    seconds = max(1, math.ceil(wait))
    field = (b"Retry-After", b"%d" % seconds)
    return Refusal(Problem.TOO_MANY_REQUESTS, f"too many requests: wait {seconds} s", (field,))


def _why(failure: Failure) -> Refusal:
    """What is said to a token that no checker knows."""
    error = failure.value
    if isinstance(error, Rejected):
        return unauthorized(str(error))
    if isinstance(error, UnauthorizedLogin):
        return unauthorized("the token is not known")
    if isinstance(error, CannotTell):
        field = (b"Retry-After", b"%d" % error.retry_after)
        return Refusal(Problem.CREDENTIALS_UNCHECKED, str(error), (field,))
    failure.raiseException()
