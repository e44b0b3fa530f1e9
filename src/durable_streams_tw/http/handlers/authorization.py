"""Authentication, authorization and rate limits of requests, before they are handled.

`AuthorizedHandler` wraps `StreamHandler` for every HTTP engine; a server without an `AccessPolicy`
does not use it. Checks in order:

1. the Host header (`auth.origins`), so that DNS rebinding learns nothing;
2. the rate limit: by address before authentication, by identity after it;
3. the bearer token;
4. the Origin, if the credentials are a cookie or the network;
5. the grants, for the request as the handlers parse it.

Calls within the process (`embedded`) are not checked.
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

from durable_streams_tw.auth.bearer_tokens import (
    MalformedAuthorization,
    token_from_authorization,
    token_from_cookie,
)
from durable_streams_tw.auth.grants import Grants, Verb
from durable_streams_tw.auth.identities import BearerToken, CheckerUnavailable, Identity, Rejected
from durable_streams_tw.auth.limits import MAX_BEARER, TOKEN_CACHE
from durable_streams_tw.auth.origins import AllowedHosts, AllowedOrigins
from durable_streams_tw.auth.rate_limits import Rate, RateLimiter, client_address
from durable_streams_tw.auth.token_checkers import UNKNOWN_TOKEN
from durable_streams_tw.clocks import Seconds
from durable_streams_tw.datastructures.bounded_cache import BoundedCache
from durable_streams_tw.http.handlers import required_grants
from durable_streams_tw.http.handlers import subscriptions as handlers_subscriptions
from durable_streams_tw.http.handlers.required_grants import WAKE_KINDS, Coverage
from durable_streams_tw.http.handlers.streams import Decision, Respond, StreamHandler
from durable_streams_tw.http.handlers.token_deadline import until
from durable_streams_tw.http.messages import Request, Response
from durable_streams_tw.http.response_headers import ResponseHeaders
from durable_streams_tw.protocol import headers
from durable_streams_tw.protocol.errors import Problem, Refusal, Refused
from durable_streams_tw.protocol.streams.parsing import HeaderMap
from durable_streams_tw.protocol.subscriptions import parsing
from durable_streams_tw.protocol.subscriptions.control_paths import (
    ControlPath,
    ControlResource,
    is_control,
    parse_control_path,
)
from durable_streams_tw.protocol.subscriptions.state import GONE, OTHER_CONFIGURATION
from durable_streams_tw.storage.commands.subscription_queries import SubscriptionPaths
from durable_streams_tw.subscriptions.service import Subscriptions

if TYPE_CHECKING:
    from twisted.cred.checkers import ICredentialsChecker

#: Methods that change nothing (RFC 9110 §9.2.1).
_SAFE: Final = frozenset((b"GET", b"HEAD", b"OPTIONS"))

_REALM: Final = b'Bearer realm="durable-streams"'
_HOST_NOT_ALLOWED: Final = Refusal(
    Problem.HOST_NOT_ALLOWED, "the Host header names no allowed host: see --allowed-host"
)
_CROSS_SITE: Final = Refusal(
    Problem.CROSS_SITE, "pages of this origin may not send this request: see --cors-origin"
)
_MISSING: Final = Refusal(
    Problem.UNAUTHORIZED,
    "the request has no token: send Authorization: Bearer <token>",
    ((b"WWW-Authenticate", _REALM),),
)
_EXPIRED: Final = "the token has expired"


class AccessPolicy(Struct, frozen=True, kw_only=True):
    """Requirements for requests.

    ``checkers`` check tokens (`auth.identities.IBearerToken`); without any, no token is required.
    ``cookie`` is the name of a cookie that may hold the token. ``rate`` applies to each client.
    ``trust_proxy`` takes the client's address from X-Forwarded-For. ``max_live`` is the longest
    duration of a live read in seconds, after which the client has to authenticate again.
    """

    checkers: Sequence[ICredentialsChecker] = ()
    cookie: bytes | None = None
    hosts: AllowedHosts
    origins: AllowedOrigins
    rate: Rate | None = None
    trust_proxy: bool = False
    max_live: float

    def __bool__(self) -> bool:
        return bool(self.checkers or self.hosts or self.origins or self.rate)


class ClientRequest(Struct, frozen=True):
    """Parts of a request that identify its client.

    ``client`` is the key of the client's address (`client_address`), ``authority`` the host and
    port that the client sees.
    """

    client: str
    method: bytes
    headers: HeaderMap
    authority: bytes


Authenticated = Callable[[Identity | None], Any]
"""Continuation after authentication. The identity is None where no token is required."""


class AuthorizedHandler:
    """Request handler that authenticates and authorizes before it delegates to a `StreamHandler`.

    ``clock`` (monotonic) times rate limits and token deadlines, ``wall`` is compared with the
    expiry of tokens.
    """

    def __init__(
        self,
        handler: StreamHandler,
        response_headers: ResponseHeaders,
        subscriptions: Subscriptions,
        policy: AccessPolicy,
        clock: IReactorTime,
        wall: Seconds,
    ) -> None:
        self._handler = handler
        self._response_headers = response_headers
        self._subscriptions = subscriptions
        self._policy = policy
        self._clock = clock
        self._wall = wall
        #: Rates of the clients; None without a limit.
        self.rates = None if policy.rate is None else RateLimiter(policy.rate)
        # Hashes of tokens that were valid lately: their requests count for the identity only,
        # so that clients of one address with valid tokens do not share its rate.
        self._valid: BoundedCache[bytes, None] = BoundedCache(TOKEN_CACHE)
        self.refuse = handler.refuse
        self.error_response = handler.error_response

    # -- streams ------------------------------------------------------------------------------

    def responder(self, host: str | None) -> Respond:
        """Return the function that answers the requests of a connection from an address."""
        return partial(self._respond, host)

    def respond(self, request: Request) -> Response | Deferred[Response]:
        """Respond to a request from an unknown address. Fail only when cancelled."""
        return self._respond(None, request)

    def decide(self, host: str | None, request: Request) -> Decision | Deferred[Decision]:
        """Authenticate and authorize a request by its head. The rate limit counts it once."""
        decision: Decision | Deferred[Decision] = self._catch(
            request,
            lambda: self._authenticate(host, request, self._decide_stream, self._decide_control),
        )
        return decision

    def _respond(self, host: str | None, request: Request) -> Response | Deferred[Response]:
        response: Response | Deferred[Response] = self._catch(
            request, lambda: self._authenticate(host, request, self._stream, self._control)
        )
        return response

    def _authenticate(
        self,
        host: str | None,
        request: Request,
        stream: Callable[[Request, Identity | None], Any],
        control: Callable[[Request, ControlPath, Identity | None], Any],
    ) -> Any:
        """Call ``stream`` or ``control`` with the client's identity, or return a refusal."""
        refuse = partial(self._refuse, request)
        if request.method == b"OPTIONS":
            # A CORS preflight carries no credentials.
            if not self._policy.hosts.allow(request.headers.get(b"host")):
                return refuse(_HOST_NOT_ALLOWED)
            return self._handler.respond_deferred(request)
        client = self.client_request(host, request.method, request.headers, request.url)
        if is_control(request.path):
            path = parse_control_path(request.path)
            public = required_grants.is_public(path, request.method) or path.resource in WAKE_KINDS
            return self.authenticate(client, partial(control, request, path), refuse, public)
        return self.authenticate(client, partial(stream, request), refuse)

    def _catch(self, request: Request, call: Callable[[], Any]) -> Any:
        """Make a call and turn its errors, now or later, into responses."""
        try:
            result = call()
        except Exception:  # noqa: BLE001 - any error means that the request is not carried out
            return self._error_response(Failure(), request)
        if isinstance(result, Deferred):
            failed: Callable[[Failure, Request], Any] = self._failed
            return result.addErrback(failed, request)
        return result

    def _decide_stream(self, request: Request, identity: Identity | None) -> Decision:
        forbidden = self._forbidden(request, identity)
        if forbidden is not None:
            return forbidden
        return self._decide(request, partial(self._stream, identity=identity))

    def _decide_control(
        self, request: Request, path: ControlPath, identity: Identity | None
    ) -> Decision:
        # The required grants depend on the body.
        return self._decide(request, partial(self._control, path=path, identity=identity))

    def _decide(self, request: Request, handle: Callable[[Request], Any]) -> Decision:
        decision = self._handler.decide(None, request)
        if isinstance(decision, Response):
            return decision
        return lambda complete: self._catch(complete, partial(handle, complete))

    def _failed(self, failure: Failure, request: Request) -> Response | Failure:
        # Return the failure, do not raise it: a traceback would keep the request alive.
        if failure.check(CancelledError):
            return failure
        return self._error_response(failure, request)

    def _error_response(self, failure: Failure, request: Request) -> Response:
        if isinstance(failure.value, Refused):
            return self._refuse(request, failure.value.refusal)
        return self._handler.error_response(failure, request.headers.get(headers.ORIGIN))

    def _refuse(self, request: Request, refusal: Refusal) -> Response:
        origin = request.headers.get(headers.ORIGIN)
        if is_control(request.path):
            return self._response_headers.complete(handlers_subscriptions.refused(refusal), origin)
        return self._handler.refuse(refusal, origin)

    def _stream(self, request: Request, identity: Identity | None) -> Response | Deferred[Response]:
        forbidden = self._forbidden(request, identity)
        if forbidden is not None:
            return forbidden
        response = self._handler.respond_deferred(request)
        if identity is None or request.method != b"GET" or identity.expires_at is None:
            return response
        left = identity.expires_at - self._wall()
        if left > self._policy.max_live:
            return response
        expired = partial(self._refuse, request, unauthorized(_EXPIRED))
        return until(left, response, self._clock, expired)

    def _forbidden(self, request: Request, identity: Identity | None) -> Response | None:
        """Return the response to a request that lacks a grant, None if it has all."""
        if identity is None:
            return None
        missing = required_grants.missing_for_stream(
            identity.grants, request.method, request.path, request.headers, request.root
        )
        return None if missing is None else self._refuse(request, forbidden(missing))

    # -- subscriptions --------------------------------------------------------------------------

    def _control(
        self, request: Request, path: ControlPath, identity: Identity | None
    ) -> Response | Deferred[Response]:
        if not self._policy.checkers or required_grants.is_public(path, request.method):
            return self._handler.respond_deferred(request)
        if path.resource in WAKE_KINDS:
            return self._respond_to_worker(request, path)
        assert identity is not None, "every other control resource requires a token"
        if path.resource in (ControlResource.NOTHING, ControlResource.KEYS):
            return self._handler.respond_deferred(request)
        name = parsing.parse_subscription_id(path.id)
        creates = path.resource is ControlResource.SUBSCRIPTION and request.method == b"PUT"
        missing: str | None = None
        if not identity.grants.allow_somewhere(Verb.SUBSCRIBE):
            missing = "the request needs the grant subscribe"
        elif creates:
            missing = required_grants.missing_for_subscription(identity.grants, request.body)
        elif path.resource is ControlResource.STREAMS and request.method == b"POST":
            missing = required_grants.missing_for_links(identity.grants, request.body)
        if missing is not None:
            return self._refuse(request, forbidden(missing))
        found: Deferred[Any] = self._subscriptions.store.query(SubscriptionPaths(name))
        return found.addCallback(self._authorize_existing, request, identity.grants, creates)

    def _authorize_existing(
        self, found: Any, request: Request, grants: Grants, creates: bool
    ) -> Response | Deferred[Response]:
        """Carry out a request for a subscription if the client could have created it."""
        if isinstance(found, Refusal):
            # Only a creating request may go on: by the time that another one is carried out, a
            # different client may have created the subscription.
            if creates and found.problem is GONE.problem:
                return self._handler.respond_deferred(request)
            return self._refuse(request, found)
        if Coverage(*found).allowed(grants):
            return self._handler.respond_deferred(request)
        # Do not reveal that the subscription exists, except to a request for the same id.
        return self._refuse(request, OTHER_CONFIGURATION if creates else GONE)

    def _respond_to_worker(
        self, request: Request, path: ControlPath
    ) -> Response | Deferred[Response]:
        """Check the wake token of a worker before the request reveals anything."""
        name, kind = parsing.parse_subscription_id(path.id), WAKE_KINDS[path.resource]
        _, proof = handlers_subscriptions.wake_token(self._subscriptions, request, name, kind)
        if isinstance(proof, Refusal):
            return self._refuse(request, proof)
        return self._handler.respond_deferred(request)

    # -- authentication -------------------------------------------------------------------------

    def client_request(
        self, host: str | None, method: bytes, request_headers: HeaderMap, url: bytes
    ) -> ClientRequest:
        """Return the parts of a request that identify its client. ``url`` is absolute."""
        trusted = self._policy.trust_proxy
        forwarded = request_headers.get(b"x-forwarded-for") if trusted else None
        authority = url.split(b"/", 3)[2] if url.count(b"/") > 1 else b""
        return ClientRequest(client_address(host, forwarded), method, request_headers, authority)

    def authenticate(
        self,
        request: ClientRequest,
        authenticated: Authenticated,
        refuse: Callable[[Refusal], Response],
        public: bool = False,
    ) -> Any:
        """Return ``authenticated(identity)``, or ``refuse(refusal)``; as a Deferred if need be.

        The identity is None if there are no checkers, or for a ``public`` resource, which needs
        no token.
        """
        policy = self._policy
        fields = request.headers
        if not policy.hosts.allow(fields.get(b"host")):
            return refuse(_HOST_NOT_ALLOWED)
        if public or not policy.checkers:
            wait = self._take("@" + request.client)
            if wait:
                return refuse(too_many_requests(wait))
            if not public and not self._is_allowed_origin(request, wildcard=True):
                return refuse(_CROSS_SITE)
            return authenticated(None)
        from_cookie = False
        try:
            token = token_from_authorization(fields.get(b"authorization"))
            if token is None and policy.cookie is not None:
                token = token_from_cookie(fields.get(b"cookie", b""), policy.cookie)
                from_cookie = token is not None
        except MalformedAuthorization:
            token = ""
        digest = hashlib.sha256((token or "").encode("ascii")).digest()
        if not token or (self.rates is not None and digest not in self._valid):
            wait = self._take("@" + request.client)
            if wait:
                return refuse(too_many_requests(wait))
        if token is None:
            return refuse(_MISSING)
        if not token:
            return refuse(
                unauthorized(f"the token is not valid base64 of at most {MAX_BEARER} characters")
            )

        def accepted(identity: Identity) -> Any:
            if identity.expires_at is not None and self._wall() >= identity.expires_at:
                return refuse(unauthorized(_EXPIRED))
            if self.rates is not None:
                if digest not in self._valid:
                    self._valid.put(digest, None)
                wait = self._take("#" + identity.name)
                if wait:
                    return refuse(too_many_requests(wait))
            if from_cookie and not self._is_allowed_origin(request, wildcard=False):
                return refuse(_CROSS_SITE)
            return authenticated(identity)

        def rejected(failure: Failure) -> Response | Failure:
            self._valid.pop(digest)
            return failure if failure.check(CancelledError) else refuse(_refusal_of(failure))

        checked = self._check(token, 0, None)
        result = checked.result if checked.called and not checked.paused else None
        if isinstance(result, Identity):
            return accepted(result)
        later: Deferred[Any] = checked.addCallbacks(accepted, rejected)
        return later

    def _check(self, token: str, index: int, unavailable: Failure | None) -> Deferred[Any]:
        """Return the identity of a token, from the first checker at or after ``index`` to know it.

        Fail with ``unavailable``, the `CheckerUnavailable` of an earlier checker, rather than
        with the rejection of a later one: the earlier one may know the token.
        """
        checker: Any = self._policy.checkers[index]
        checked: Deferred[Any] = maybeDeferred(checker.requestAvatarId, BearerToken(token))

        def require_identity(identity: object) -> Identity:
            if not isinstance(identity, Identity):
                raise TypeError("a token checker must return an Identity")
            return identity

        def next_checker(failure: Failure) -> Failure | Deferred[Any]:
            last = index + 1 == len(self._policy.checkers)
            if not failure.check(UnauthorizedLogin, CheckerUnavailable):
                return failure
            error = failure if failure.check(CheckerUnavailable) else unavailable
            return (error or failure) if last else self._check(token, index + 1, error)

        return checked.addCallback(require_identity).addErrback(next_checker)

    def _is_allowed_origin(self, request: ClientRequest, *, wildcard: bool) -> bool:
        fields = request.headers
        return request.method in _SAFE or self._policy.origins.allow(
            fields.get(headers.ORIGIN),
            fields.get(b"sec-fetch-site"),
            request.authority,
            wildcard=wildcard,
        )

    def _take(self, client: str) -> float:
        return 0.0 if self.rates is None else self.rates.take(client, self._clock.seconds())


def unauthorized(detail: str) -> Refusal:
    """Return the refusal of an invalid token (401)."""
    header = (b"WWW-Authenticate", _REALM + b', error="invalid_token"')
    return Refusal(Problem.UNAUTHORIZED, detail, (header,))


def forbidden(detail: str) -> Refusal:
    """Return the refusal of a request that lacks a grant (403)."""
    header = (b"WWW-Authenticate", _REALM + b', error="insufficient_scope"')
    return Refusal(Problem.FORBIDDEN, detail, (header,))


def too_many_requests(wait: float) -> Refusal:
    """Return the refusal of a request beyond the rate limit (429). ``wait`` is in seconds."""
    seconds = max(1, math.ceil(wait))
    header = (b"Retry-After", b"%d" % seconds)
    return Refusal(
        Problem.TOO_MANY_REQUESTS, f"rate limit exceeded: retry after {seconds} s", (header,)
    )


def _refusal_of(failure: Failure) -> Refusal:
    """Return the refusal for a checker's error. Raise any other error."""
    error = failure.value
    if isinstance(error, Rejected):
        return unauthorized(str(error))
    if isinstance(error, UnauthorizedLogin):
        return unauthorized(UNKNOWN_TOKEN)
    if isinstance(error, CheckerUnavailable):
        header = (b"Retry-After", b"%d" % error.retry_after)
        return Refusal(Problem.CREDENTIALS_UNCHECKED, str(error), (header,))
    failure.raiseException()
