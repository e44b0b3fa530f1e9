"""Receiver of webhooks: verification of signatures, and resources for twisted.web and Klein."""

from __future__ import annotations

import json
from base64 import urlsafe_b64decode
from collections.abc import Awaitable, Callable
from typing import Any, Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.web.iweb import IRequest
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET

from durable_streams_tw.client.client import StreamClient
from durable_streams_tw.client.errors import BadResponse, ClientError, Fenced
from durable_streams_tw.client.event_loops import CANCELLED, settled, starter
from durable_streams_tw.client.wakes import LEASE, Wake
from durable_streams_tw.clocks import cancel

_log = Logger()

#: Maximum age of a signature, and its maximum time in the future (seconds, PROTOCOL.md §7.1).
MAX_AGE: Final = 300.0

#: Minimum time between two requests for the key set (seconds).
KEYS_AGE: Final = 10.0

#: Time after which a webhook gets its response although the handler still runs (seconds).
RESPONSE_TIME: Final = 10.0


class UnverifiedWebhook(Exception):
    """Request that is not a webhook of the server; it gets 401."""


class WebhookReceiver:
    """Receiver of the webhooks of a server, which runs a handler for each wake.

    ``client`` has the root of the streams as its URL; the signing keys are those of its
    ``__ds/jwks.json``, or of ``jwks_url``. ``handler`` is a coroutine function; a wake is
    acknowledged when it returns. If it fails, the server gets 500 and repeats the webhook later.
    If it takes longer than ``response_time`` seconds, the webhook gets 202, and the lease is
    renewed until the handler returns; ``lease`` is its duration in seconds, as the subscription's
    ``lease_ttl_ms``. Handlers run as the code that makes the receiver: under
    Twisted or asyncio.

    Use `resource` in a site of twisted.web, or call `respond` in a route of Klein.
    """

    def __init__(
        self,
        client: StreamClient,
        handler: Callable[[Wake], Awaitable[object]],
        *,
        jwks_url: str | None = None,
        response_time: float = RESPONSE_TIME,
        lease: float = LEASE,
    ) -> None:
        self._client = client
        self._handler = handler
        self._response_time = response_time
        self._lease = lease
        self._start = starter()
        self._endpoint = client.endpoint(jwks_url or "__ds/jwks.json")
        self._keys: dict[str, Ed25519PublicKey] = {}
        self._asked: float | None = None

    def resource(self) -> Resource:
        """Return a resource that accepts webhooks as POST requests."""
        return _WebhookResource(self)

    async def respond(self, request: IRequest) -> bytes:
        """Verify a webhook, run the handler, set the status of the response and return its body."""
        request.setHeader(b"content-type", b"application/json")
        try:
            content: Any = request.content
            wake = await self.verify(request.getHeader(b"webhook-signature"), content.read())
        except UnverifiedWebhook as error:
            return _response(request, 401, str(error))
        except ClientError as error:
            # Without keys or with a malformed wake: the server repeats the webhook.
            _log.warn("A webhook was not accepted: {error}", error=error)
            return _response(request, 503, "the webhook cannot be verified at the moment")
        return _response(request, *await self._run(wake))

    async def verify(self, signature: bytes | str | None, body: bytes) -> Wake:
        """Return the wake of a webhook.

        ``signature`` is the header Webhook-Signature. Raises `UnverifiedWebhook` if it is missing,
        wrong or too old, and `ClientError` if the keys of the server cannot be fetched.
        """
        text = signature.decode("latin-1") if isinstance(signature, bytes) else signature or ""
        fields = dict(field.strip().partition("=")[::2] for field in text.split(","))
        moment = fields.get("t", "")
        if not (moment.isascii() and moment.isdigit()):
            raise UnverifiedWebhook("the signature is missing or malformed")
        if abs(self._endpoint.common.wire.wall() - int(moment)) > MAX_AGE:
            raise UnverifiedWebhook("the signature is too old")
        key = await self._key(fields.get("kid", ""))
        try:
            key.verify(_decoded(fields.get("ed25519", "")), moment.encode() + b"." + body)
        except (InvalidSignature, ValueError):
            raise UnverifiedWebhook("the signature is wrong") from None
        try:
            given = json.loads(body)
            callback = self._client.endpoint(given["callback_url"])
        except (ValueError, KeyError, TypeError):
            raise BadResponse("the body of the webhook is not a wake") from None
        return Wake(self._client, callback, given, lease=self._lease)

    async def _run(self, wake: Wake) -> tuple[int, str]:
        """Run the handler; return the status and the reason of the response."""
        outcome: Deferred[tuple[int, str]] = Deferred()
        answered = False

        async def work() -> None:
            status, reason = 200, ""
            try:
                await wake._handle(self._handler, lambda: answered)
            except Fenced as error:
                _log.warn("{error}", error=error)
            except CANCELLED:
                status, reason = 500, "the handler was cancelled"
            except Exception as error:  # noqa: BLE001 - handlers may fail in any way
                _log.error("A webhook's handler failed: {error!r}", error=error)
                status, reason = 500, "the handler failed"
            if not answered:
                outcome.callback((status, reason))

        def go_on() -> None:
            nonlocal answered
            answered = True
            outcome.callback((202, ""))

        timer = self._endpoint.common.wire.timers.callLater(self._response_time, go_on)
        self._start(work())
        try:
            return await settled(outcome)
        finally:
            cancel(timer)

    async def _key(self, kid: str) -> Ed25519PublicKey:
        """Return a key, fetching the key set if the key is not known.

        Raises `UnverifiedWebhook` if the server has no such key.
        """
        now = self._endpoint.common.wire.timers.seconds()
        if kid not in self._keys and (self._asked is None or now - self._asked >= KEYS_AGE):
            answer = await self._endpoint.insist(lambda: self._endpoint.ask("GET"))
            self._keys = _keys(answer.body)
            self._asked = now
        if kid not in self._keys:
            raise UnverifiedWebhook("the key of the signature is unknown")
        return self._keys[kid]


class _WebhookResource(Resource):
    isLeaf = True

    def __init__(self, receiver: WebhookReceiver) -> None:
        Resource.__init__(self)
        self._receiver = receiver

    def render_POST(self, request: Any) -> int:
        """Respond to a webhook."""
        gone = False

        def leave(_: object) -> None:
            nonlocal gone
            gone = True

        def send(body: bytes) -> None:
            if not gone:
                request.write(body)
                request.finish()

        request.notifyFinish().addErrback(leave)
        responding = Deferred.fromCoroutine(self._receiver.respond(request))
        responding.addCallback(send).addErrback(request.processingFailed)
        return NOT_DONE_YET


def _response(request: Any, status: int, reason: str) -> bytes:
    request.setResponseCode(status)
    return json.dumps({"error": reason} if reason else {}).encode()


def _keys(body: bytes) -> dict[str, Ed25519PublicKey]:
    """Return the Ed25519 keys of a JWK set by id. Raises `BadResponse` if it is malformed."""
    try:
        return {
            key["kid"]: Ed25519PublicKey.from_public_bytes(_decoded(key["x"]))
            for key in json.loads(body)["keys"]
            if (key.get("kty"), key.get("crv")) == ("OKP", "Ed25519")
        }
    except (ValueError, KeyError, TypeError, AttributeError):
        raise BadResponse("the server's key set is malformed") from None


def _decoded(text: str) -> bytes:
    return urlsafe_b64decode(text + "=" * (-len(text) % 4))
