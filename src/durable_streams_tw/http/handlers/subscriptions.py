"""Handler of control resources below ``__ds`` (PROTOCOL.md §6, §7).

These are subscriptions and the keys that sign webhooks. Error bodies are
``{"error": {"code", "message"}}``.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from typing import Any, Final

from twisted.internet.defer import Deferred, maybeDeferred
from twisted.python.failure import Failure

from durable_streams_tw.auth.bearer_tokens import MalformedAuthorization, token_from_authorization
from durable_streams_tw.http import problems
from durable_streams_tw.http.messages import Request, Response
from durable_streams_tw.http.response_headers import ResponseHeaders
from durable_streams_tw.protocol import caching, headers
from durable_streams_tw.protocol.errors import Problem, Refusal, Refused
from durable_streams_tw.protocol.limits import MAX_CONTROL_BODY, RESERVED_SEGMENT
from durable_streams_tw.protocol.streams.offsets import format_offset
from durable_streams_tw.protocol.streams.preconditions import (
    CONDITIONAL,
    parse_precondition,
    require_match,
)
from durable_streams_tw.protocol.streams.responses import BufferedResponse, Header
from durable_streams_tw.protocol.subscriptions import commands as requests
from durable_streams_tw.protocol.subscriptions import parsing
from durable_streams_tw.protocol.subscriptions.commands import SubscriptionCommand
from durable_streams_tw.protocol.subscriptions.control_paths import (
    ControlResource,
    parse_control_path,
)
from durable_streams_tw.protocol.subscriptions.outcomes import Claimed, Settled, Subscribed
from durable_streams_tw.protocol.subscriptions.state import (
    AlreadyClaimed,
    Kind,
    Subscription,
    TokenClaims,
)
from durable_streams_tw.storage.commands.subscription_queries import (
    DescribeSubscription,
    Description,
)
from durable_streams_tw.subscriptions.delivery import work_item
from durable_streams_tw.subscriptions.service import Subscriptions
from durable_streams_tw.subscriptions.tokens import TOKEN_MISSING

_JSON: Final = b"application/json"
_JWK_SET: Final = b"application/jwk-set+json"
_KEYS_CACHING: Final = b"public, max-age=300"
_NO_STORE: Final[Header] = (headers.H_CACHE_CONTROL, caching.NO_STORE)

_UNCONDITIONAL: Final = Refusal(
    Problem.PRECONDITION_FAILED,
    "this control resource has no ETag, so it takes no If-Match and no If-None-Match",
)
# Reported to clients as INVALID_REQUEST.
_INVALID: Final = frozenset(
    (
        Problem.MALFORMED_FIELD,
        Problem.MALFORMED_OFFSET,
        Problem.MALFORMED_PATH,
        Problem.MALFORMED_REQUEST,
        Problem.INVALID_JSON,
    )
)

MaybeDeferred = BufferedResponse | Deferred[BufferedResponse]


class SubscriptionHandler:
    """Handler of control requests."""

    def __init__(self, subscriptions: Subscriptions, response_headers: ResponseHeaders) -> None:
        self._subscriptions = subscriptions
        self._response_headers = response_headers
        self._actions: dict[ControlResource, Callable[[Request, str], MaybeDeferred]] = {
            ControlResource.STREAMS: self._link,
            ControlResource.CALLBACK: partial(self._settle, Kind.WEBHOOK),
            ControlResource.CLAIM: self._claim,
            ControlResource.ACK: partial(self._settle, Kind.PULL),
            ControlResource.RELEASE: self._release,
        }

    def respond(self, request: Request) -> Deferred[Response]:
        """Respond to a control request. Fail only with an internal error."""
        responded: Deferred[Any] = maybeDeferred(self._route, request)
        responded.addErrback(_refused_by)
        return responded.addCallback(
            self._response_headers.complete, request.headers.get(b"origin")
        )

    def check_head(self, request: Request) -> Response | None:
        """Return the refusal of a request by its head, None if its body is needed."""
        length = request.headers.get(b"content-length", b"")
        if parse_control_path(request.path).resource is ControlResource.NOTHING:
            answer = refused(problems.RESERVED_PATH)
        elif length.isdigit() and (len(length) > 9 or int(length) > MAX_CONTROL_BODY):
            answer = refused(parsing.BODY_TOO_LARGE)
        else:
            return None
        return self._response_headers.complete(answer, request.headers.get(b"origin"))

    def _route(self, request: Request) -> MaybeDeferred:
        path = parse_control_path(request.path)
        place = path.resource
        if place is ControlResource.KEYS:
            return _only(request, b"GET", lambda: self._keys(request))
        if place is ControlResource.NOTHING:
            return refused(problems.RESERVED_PATH)
        name = parsing.parse_subscription_id(path.id)
        if place is not ControlResource.SUBSCRIPTION and any(
            name in request.headers for name in CONDITIONAL
        ):
            return refused(_UNCONDITIONAL)
        if place is ControlResource.SUBSCRIPTION:
            return self._subscription(request, name)
        if place is ControlResource.STREAM:
            unlink = partial(self._unlink, name, path.stream)
            return _only(request, b"DELETE", unlink)
        operation = self._actions[place]
        return _only(request, b"POST", lambda: operation(request, name))

    # -- resources ----------------------------------------------------------------------------

    def _keys(self, request: Request) -> BufferedResponse:
        require_match(request.headers.get(headers.IF_MATCH))
        keys = self._subscriptions.keyring.jwks()
        return BufferedResponse(
            200,
            [(headers.H_CONTENT_TYPE, _JWK_SET), (headers.H_CACHE_CONTROL, _KEYS_CACHING)],
            keys,
        )

    def _subscription(self, request: Request, name: str) -> MaybeDeferred:
        if request.method == b"PUT":
            command = parsing.parse_subscribe(
                name, request.body, parse_precondition(request.headers)
            )
            return _rendered(self._subscriptions.subscribe(command), self._subscribed)
        if request.method in (b"GET", b"HEAD"):
            return self._describe(name, 200, request.headers.get(headers.IF_MATCH))
        if request.method == b"DELETE":
            return self._submit(
                requests.Unsubscribe(name, parse_precondition(request.headers)), _empty
            )
        return _not_allowed(b"GET, HEAD, PUT, DELETE")

    def _link(self, request: Request, name: str) -> MaybeDeferred:
        return self._submit(parsing.parse_link_streams(name, request.body), _empty)

    def _unlink(self, name: str, raw_path: bytes) -> MaybeDeferred:
        return self._submit(parsing.parse_unlink_stream(name, raw_path), _empty)

    def _settle(self, kind: Kind, request: Request, name: str) -> MaybeDeferred:
        token, proof = wake_token(self._subscriptions, request, name, kind)
        command = parsing.parse_settle(name, kind, proof, request.body)
        return self._submit(command, lambda outcome: self._settled(outcome, token, command.done))

    def _claim(self, request: Request, name: str) -> MaybeDeferred:
        return self._submit(parsing.parse_claim(name, request.body), self._claimed)

    def _release(self, request: Request, name: str) -> MaybeDeferred:
        _, proof = wake_token(self._subscriptions, request, name, Kind.PULL)
        return self._submit(parsing.parse_release(name, proof, request.body), _empty)

    # -- responses ------------------------------------------------------------------------------

    def _submit(
        self, command: SubscriptionCommand, render: Callable[[Any], BufferedResponse]
    ) -> Deferred[BufferedResponse]:
        return _rendered(self._subscriptions.store.submit(command), render)

    def _subscribed(self, outcome: Subscribed) -> MaybeDeferred:
        return self._describe(outcome.state.id, 201 if outcome.fresh else 200)

    def _describe(
        self, name: str, status: int, if_match: bytes | None = None
    ) -> Deferred[BufferedResponse]:
        def render(found: Description) -> BufferedResponse:
            require_match(if_match)
            return _json(status, self._description(found))

        return _rendered(self._subscriptions.store.query(DescribeSubscription(name)), render)

    def _description(self, found: Description) -> dict[str, Any]:
        state = found.state
        config = state.config
        described: dict[str, Any] = {
            "id": state.id,
            "subscription_id": state.id,
            "type": config.kind.value,
            "pattern": config.pattern,
            "streams": [
                {
                    "path": link.path,
                    "link_type": "explicit" if link.explicit else "glob",
                    "acked_offset": format_offset(link.stream, link.acked),
                }
                for link in found.links
            ],
            "webhook": None if config.url is None else self._webhook(config.url),
            "wake_stream": config.wake_stream,
            "lease_ttl_ms": config.lease_ttl,
            "created_at": headers.format_timestamp(state.created_at),
            "status": "failed" if state.failing else "active",
            "description": config.description,
        }
        if not found.complete:
            described["streams_complete"] = False
        return described

    def _webhook(self, url: str) -> dict[str, Any]:
        base = self._subscriptions.base() or ""
        return {
            "url": url,
            "signing": {
                "alg": "ed25519",
                "kid": self._subscriptions.keyring.kid,
                "jwks_url": f"{base}{RESERVED_SEGMENT}/jwks.json",
            },
        }

    def _claimed(self, outcome: Claimed) -> BufferedResponse:
        state: Subscription = outcome.state
        return _json(
            200,
            {
                "wake_id": state.wake_id,
                "generation": state.generation,
                "token": self._subscriptions.tokens.issue(state),
                "streams": [work_item(item) for item in outcome.items],
                "lease_ttl_ms": state.config.lease_ttl,
            },
        )

    def _settled(self, outcome: Settled, token: str, done: bool) -> BufferedResponse:
        body: dict[str, Any] = {"ok": True, "next_wake": outcome.next_wake}
        if not done and outcome.state is not None:
            renewed = self._subscriptions.tokens.renew(token, outcome.state)
            if renewed is not None:
                body["token"] = renewed
        return _json(200, body)


def wake_token(
    subscriptions: Subscriptions, request: Request, name: str, kind: Kind
) -> tuple[str, TokenClaims | Refusal]:
    """Return the wake token of a request, and its content. Raise `Refused` without a token."""
    try:
        token = token_from_authorization(request.headers.get(b"authorization"))
    except MalformedAuthorization:
        token = None
    if token is None:
        raise Refused(TOKEN_MISSING.problem, TOKEN_MISSING.detail, TOKEN_MISSING.headers)
    return token, subscriptions.tokens.check(token, name, kind)


def _rendered(
    result: Deferred[Any], render: Callable[[Any], MaybeDeferred]
) -> Deferred[BufferedResponse]:
    return result.addCallback(
        lambda outcome: refused(outcome) if isinstance(outcome, Refusal) else render(outcome)
    )


def _refused_by(failure: Failure) -> BufferedResponse:
    failure.trap(Refused)
    refused_by: Any = failure.value
    return refused(refused_by.refusal)


def refused(refusal: Refusal) -> BufferedResponse:
    """Return the error response of a control request."""
    problem = refusal.problem
    code = Problem.INVALID_REQUEST if problem in _INVALID else problem
    error: dict[str, Any] = {"code": code.name, "message": refusal.detail}
    if isinstance(refusal, AlreadyClaimed):
        error["current_holder"] = refusal.holder
        error["generation"] = refusal.generation
    answer = _json(problem.status, {"error": error})
    answer.headers.extend(refusal.headers)
    return answer


def _json(status: int, value: dict[str, Any]) -> BufferedResponse:
    body = json.dumps(value).encode("ascii")
    return BufferedResponse(status, [(headers.H_CONTENT_TYPE, _JSON), _NO_STORE], body)


def _empty(_: object) -> BufferedResponse:
    return BufferedResponse(204, [_NO_STORE])


def _only(
    request: Request,
    method: bytes,
    answer: Callable[[], MaybeDeferred],
) -> MaybeDeferred:
    if request.method == method or (method == b"GET" and request.method == b"HEAD"):
        return answer()
    return _not_allowed(b"GET, HEAD" if method == b"GET" else method)


def _not_allowed(methods: bytes) -> BufferedResponse:
    allow = methods + b", OPTIONS"
    return refused(
        Refusal(
            Problem.METHOD_NOT_ALLOWED,
            f"the methods of this control resource are {allow.decode('ascii')}",
            ((b"Allow", allow),),
        )
    )
