"""`DurableStreams`: store, handlers and HTTP servers wired together, for servers and programs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence, Sized
from datetime import datetime
from functools import partial
from pathlib import Path
from random import random
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import quote

from twisted.application.service import Service
from twisted.internet.defer import Deferred, maybeDeferred, succeed
from twisted.python.failure import Failure
from twisted.web.resource import IResource

from durable_streams_tw import clocks
from durable_streams_tw.auth.origins import AllowedHosts, AllowedOrigins
from durable_streams_tw.concurrency import WorkerPool, stop_all
from durable_streams_tw.embedded import values
from durable_streams_tw.embedded.tail import StreamTail
from durable_streams_tw.embedded.values import Batch, StreamError, StreamInfo, Written
from durable_streams_tw.http.handlers.authorization import AccessPolicy, AuthorizedHandler
from durable_streams_tw.http.handlers.reads import ReadHandler
from durable_streams_tw.http.handlers.streams import RequestHandler, StreamHandler
from durable_streams_tw.http.handlers.subscriptions import SubscriptionHandler
from durable_streams_tw.http.handlers.writes import InThread, WriteHandler
from durable_streams_tw.http.http1.factory import Http1Factory
from durable_streams_tw.http.limits import MAX_CHUNK, WORK_THREADS
from durable_streams_tw.http.operators.authorized import AuthorizedOperators
from durable_streams_tw.http.operators.index import Index
from durable_streams_tw.http.operators.listing import StreamListing
from durable_streams_tw.http.operators.resources import OperatorTree, RootResource
from durable_streams_tw.http.operators.server_stats import ServerStats
from durable_streams_tw.http.operators.stream_bytes import StreamBytes
from durable_streams_tw.http.operators.stream_changes import StreamChanges
from durable_streams_tw.http.operators.subscription_listing import SubscriptionListing
from durable_streams_tw.http.response_headers import ResponseHeaders
from durable_streams_tw.http.settings import Settings
from durable_streams_tw.http.twisted_web.resource import StreamResources
from durable_streams_tw.http.twisted_web.site import StreamSite
from durable_streams_tw.live.body_output import PieceSize
from durable_streams_tw.live.long_poll import LongPolls
from durable_streams_tw.live.registry import FollowerRegistry
from durable_streams_tw.live.sse.broadcaster import Broadcaster
from durable_streams_tw.live.transfers import Transfers
from durable_streams_tw.protocol import headers, paths
from durable_streams_tw.protocol.errors import Problem, Refusal, Refused
from durable_streams_tw.protocol.streams import offsets
from durable_streams_tw.reactor_turn import turn_of
from durable_streams_tw.storage.api import IRemoteStore, IStreamStore
from durable_streams_tw.storage.memory.store import MemoryStore
from durable_streams_tw.subscriptions.key_file import KeyFile
from durable_streams_tw.subscriptions.keyring import Keyring, OwnerKeyring
from durable_streams_tw.subscriptions.service import Subscriptions
from durable_streams_tw.subscriptions.webhook_client import WebhookClient

if TYPE_CHECKING:
    from twisted.cred.checkers import ICredentialsChecker

    from durable_streams_tw.storage.postgres.connection import DatabaseSettings
    from durable_streams_tw.storage.remote.server import StoreServer

T = TypeVar("T")

Producer = tuple[str, int, int]
"""Id and epoch of an idempotent producer, and the sequence number of a batch (§5.2.1)."""


class DurableStreams(Service):
    """Set of durable streams, used over HTTP (`resource`) or through methods in the process.

    This is a Twisted service: start it before use, with `startService` or as part of an
    application, and stop it to end live reads and close the store. It can be started once.

    Methods that return a Deferred fail it with `StreamError` if the request is refused. Stream
    names are URL paths after the root, without percent-encoding: ``chat/42``. Writes to one stream
    are carried out in the order of the calls, without waiting for the previous one. Cancelling a
    Deferred does not undo a write.

    Parameters
    ----------
    data_dir
        Directory of the durable store, created if it is missing.
    database
        PostgreSQL database of the streams, instead of a directory. Without either, the streams are
        in memory.
    settings
        See `Settings`.
    reactor
        Source of time, threads and connections. None: the global reactor.
    store, in_thread, webhook_client
        Replacements for the store, the worker threads and the HTTP client of webhooks. With a
        `RemoteStore`, the process that owns the store also calls the webhooks.
    checkers
        Checkers of twisted.cred for bearer tokens (`auth.identities.IBearerToken`). Without any,
        clients need no token.
    wrap_handler
        Function that wraps the request handler, for tracing and access logs.
    begin_web_request
        Called with each request for another resource of `site`; the function that it returns is
        called at the end of the response. For access logs.
    """

    def __init__(
        self,
        data_dir: str | None = None,
        *,
        database: DatabaseSettings | None = None,
        settings: Settings | None = None,
        reactor: Any = None,
        store: IStreamStore | None = None,
        in_thread: InThread | None = None,
        webhook_client: WebhookClient | None = None,
        checkers: Sequence[ICredentialsChecker] = (),
        wrap_handler: Callable[[RequestHandler], RequestHandler] | None = None,
        begin_web_request: Callable[[Any], Callable[[], object]] | None = None,
    ) -> None:
        if data_dir is not None and database is not None:
            raise ValueError("data_dir and database are alternatives: pass one of them")
        if reactor is None:
            from twisted.internet import reactor
        self._reactor = reactor
        # Timers use monotonic time; deadlines named by clients and issuers the wall clock; ages
        # of streams `clocks.StreamTime`.
        self._timers = timers = clocks.monotonic_timers(reactor)
        self._wall = wall = clocks.wall_clock(reactor)
        self._time = clocks.stream_time(reactor)
        self._settings = settings = settings or Settings()
        self._work = WorkerPool(reactor, WORK_THREADS, "durable-streams-work")
        # Threads of their own, so that metrics do not wait for clients' bodies.
        self._reports = WorkerPool(reactor, 1, "durable-streams-report")
        in_thread = in_thread or self._work
        self._report = self._reports if in_thread is self._work else in_thread
        self._started = self._released = False
        # Connections of the HTTP server made last.
        self._connections: Sized = ()
        # Live reads of consoles.
        self._changes: StreamChanges | None = None
        # Reported by set_endpoint.
        self._endpoint_url: str | None = None
        self._all_loopback: bool | None = None
        self._data_dir = data_dir
        if store is None:
            store = self._make_store(data_dir, database)
        self._store = store
        remote: Any = store if IRemoteStore.providedBy(store) else None
        self._registry = registry = FollowerRegistry(store, timers)
        if remote is not None:
            remote.on_reconnect = registry.look_again
        self._long_polls = LongPolls(store, registry, timers, settings.long_poll_timeout)
        piece_size = PieceSize()
        self._broadcaster = Broadcaster(
            store,
            registry,
            timers,
            settings.sse_reconnect_interval,
            random=random,
            piece_size=piece_size,
            wall=wall,
        )
        self._transfers = Transfers(store, registry, in_thread, piece_size)
        self._read_size = settings.max_chunk or MAX_CHUNK
        self._writes = WriteHandler(store, lambda: int(wall() * 1000), in_thread)
        self._response_headers = response_headers = _response_headers(settings, bool(checkers))
        reads = ReadHandler(
            store,
            self._long_polls,
            self._broadcaster,
            self._transfers,
            response_headers,
            wall=wall,
            random=random,
            in_thread=in_thread,
            max_chunk=settings.max_chunk,
            private=settings.private or bool(checkers),
        )
        self._subscriptions = self._make_subscriptions(remote, webhook_client)
        control = SubscriptionHandler(self._subscriptions, response_headers)
        self.stream_handler = StreamHandler(store, self._writes, reads, response_headers, control)
        policy = _access_policy(settings, checkers)
        #: Checks of requests; None if the policy has no requirements.
        self.authorized_handler: AuthorizedHandler | None = None
        handler: RequestHandler = self.stream_handler
        if policy:
            handler = self.authorized_handler = AuthorizedHandler(
                self.stream_handler, response_headers, self._subscriptions, policy, timers, wall
            )
        self._handler = handler if wrap_handler is None else wrap_handler(handler)
        self._begin_web_request = begin_web_request
        self._resources = StreamResources(
            self._handler, settings, timers, self.stream_handler.refuse
        )

    # -- service ----------------------------------------------------------------------------

    def startService(self) -> None:
        """Open the store. Raise `StoreUnusable` with a message for the operator."""
        if self._started:
            raise RuntimeError("DurableStreams can be started once: make a new instance")
        self._store.open()
        try:
            self._subscriptions.start()
        except BaseException:
            self._store.close()
            raise
        self._started = True
        Service.startService(self)

    def release(self) -> Deferred[None]:
        """End all live reads: answer long-polls, end SSE responses.

        The Deferred fires when all have ended. Further calls do nothing.
        """
        if self._released:
            return succeed(None)
        self._released = True
        if self._changes is not None:
            self._changes.stop()
        return stop_all(self._broadcaster.stop, self._long_polls.stop)

    def stopService(self) -> Deferred[None]:
        """End live reads and webhook calls, finish accepted writes, and close the store."""
        Service.stopService(self)
        return stop_all(
            self.release,
            self._subscriptions.stop,
            self._store.close,
            self._work.stop,
            self._reports.stop,
        )

    def set_endpoint(self, url: str | None, loopback: bool) -> None:
        """Report a listening port: the URL of the streams' root there, if it has one.

        The first URL is the base of callback URLs, unless the settings have a public URL.
        Webhooks to loopback addresses are allowed while all ports are ``loopback`` ones and the
        settings name no proxy.
        """
        self._endpoint_url = self._endpoint_url or url
        self._all_loopback = loopback and self._all_loopback is not False

    # -- HTTP -------------------------------------------------------------------------------

    def resource(self, root: bytes = b"") -> IResource:
        """Return a resource for any twisted.web site, mounted at any path.

        ``root`` is the raw path of the streams below the resource; it is empty or ends with a
        slash.
        """
        return self._resources.resource(root)

    def site(
        self, root: bytes = b"v1/stream/", operators: OperatorTree | None = None
    ) -> StreamSite:
        """Return a twisted.web site with the streams at ``root``, and limits on its input.

        ``operators`` is served below ``/-/``, and named at ``/``.
        """
        resource = self.resource(root)
        if operators is not None:
            index = Index(b"/" + root, list(operators.children)) if root else None
            served: IResource = operators
            if self.authorized_handler is not None:
                served = AuthorizedOperators(operators, self.authorized_handler)
            resource = RootResource(served, resource, index)
        site = StreamSite(
            resource,
            self._handler,
            self._response_headers,
            self._settings,
            self._timers,
            b"/" + root,
            self._wall,
        )
        site.decide = partial(self._resources.decide, b"/" + root)
        site.begin_web_request = self._begin_web_request
        self._connections = site.connections
        return site

    def http_factory(
        self, root: bytes = b"v1/stream/", operators: OperatorTree | None = None
    ) -> Http1Factory:
        """Return a factory with the fast HTTP/1.1 engine for streams.

        It passes connections with other requests to a `site`.
        """
        factory = Http1Factory(
            self._handler,
            self.site(root, operators),
            self._timers,
            b"/" + root,
            self._settings,
            self._wall,
            turn_of(self._reactor),
        )
        self._connections = factory.connections
        return factory

    def listing_resources(self, root: bytes = b"v1/stream/") -> dict[bytes, IResource]:
        """Return the resources that console and command line need, by name.

        They are children of the operator tree. Call it once.
        """
        self._changes = StreamChanges(self._store, self._timers)
        return {
            b"streams": StreamListing(self._store, root, self._timers),
            b"bytes": StreamBytes(self._store),
            b"changes": self._changes,
            b"subscriptions": SubscriptionListing(self._store, self._subscriptions.errors),
        }

    @property
    def webhook_errors(self) -> Mapping[str, str]:
        """Last errors of webhook calls by id of the subscription."""
        return self._subscriptions.errors

    def set_webhook_errors(self, errors: Mapping[str, str]) -> None:
        """Set the errors of webhook calls by the process that owns the store."""
        self._subscriptions.set_errors(errors)

    def store_server(self) -> StoreServer:
        """Return a factory that serves the store to `RemoteStore` objects of other processes.

        Call this before the service is started.
        """
        # Only servers with workers need this.
        from durable_streams_tw.storage.remote.server import StoreServer

        keyring = self._subscriptions.keyring
        assert isinstance(keyring, Keyring), "the store of this process is its own"
        server = StoreServer(self._store, self._reactor, keyring.export, directory=self._data_dir)
        keyring.on_adopt = server.share
        return server

    def server_stats(self) -> ServerStats:
        """Return the statistics of these streams. Counters start at zero."""
        return ServerStats(
            self._store,
            self._broadcaster,
            self._long_polls,
            self._registry,
            self._subscriptions.calls,
            lambda: self._connections,
            self._timers,
            self._report,
            not isinstance(self._store, MemoryStore) and not IRemoteStore.providedBy(self._store),
        )

    # -- calls in process -------------------------------------------------------------------

    def create(
        self,
        path: str,
        content_type: str | None = None,
        data: bytes | str = b"",
        *,
        ttl: int | None = None,
        expires_at: datetime | str | None = None,
        closed: bool = False,
        forked_from: str | None = None,
        fork_offset: str | None = None,
        fork_sub_offset: int | None = None,
    ) -> Deferred[StreamInfo]:
        """Create a stream unless it exists with the same configuration (§5.1).

        ``ttl`` is in seconds, ``expires_at`` an aware datetime or an RFC 3339 timestamp,
        ``forked_from`` the name of the source of a fork (§4.2).
        """
        header = _header(
            (headers.CONTENT_TYPE, content_type),
            (headers.STREAM_TTL, ttl),
            (headers.STREAM_EXPIRES_AT, _timestamp(expires_at)),
            (headers.STREAM_CLOSED, "true" if closed else None),
            (headers.STREAM_FORKED_FROM, None if forked_from is None else quote(forked_from)),
            (headers.STREAM_FORK_OFFSET, fork_offset),
            (headers.STREAM_FORK_SUB_OFFSET, fork_sub_offset),
        )
        raw = _bytes(data)
        return _publish(
            lambda: self._writes.create(_name(path), header, raw, b""), values.created_info
        )

    def append(
        self,
        path: str,
        data: bytes | str = b"",
        *,
        content_type: str | None = None,
        close: bool = False,
        seq: str | None = None,
        producer: Producer | None = None,
    ) -> Deferred[Written]:
        """Append bytes to a stream, and close it with ``close`` (§5.2).

        In JSON mode, ``data`` is one JSON message or an array of messages. Without
        ``content_type``, the stream's own is assumed.
        """
        producer_id, epoch, sequence = producer or (None, None, None)
        header = _header(
            (headers.CONTENT_TYPE, content_type),
            (headers.STREAM_CLOSED, "true" if close else None),
            (headers.STREAM_SEQ, seq),
            (headers.PRODUCER_ID, producer_id),
            (headers.PRODUCER_EPOCH, epoch),
            (headers.PRODUCER_SEQ, sequence),
        )
        raw = _bytes(data)
        write = self._writes.append
        if raw and content_type is None:
            write = self._writes.append_untyped
        return _publish(lambda: write(_name(path), header, raw), values.written)

    def close(self, path: str, *, producer: Producer | None = None) -> Deferred[Written]:
        """Close a stream, so that it takes no more appends (§5.3)."""
        return self.append(path, close=True, producer=producer)

    def delete(self, path: str) -> Deferred[None]:
        """Delete a stream (§5.4)."""
        return _publish(lambda: self._writes.delete(_name(path), {}), lambda _: None)

    def head(self, path: str) -> Deferred[StreamInfo]:
        """Return the state of a stream (§5.5). Its TTL is not renewed."""
        return _publish(lambda: self._store.get_state(_name(path)), values.stream_info)

    def read(self, path: str, offset: str = "-1", limit: int | None = None) -> Deferred[Batch]:
        """Read about ``limit`` bytes of a stream from an offset (§5.6)."""
        size = limit or self._read_size
        return _publish(
            lambda: self._store.read(_name(path), offsets.parse_offset(offset), size),
            values.batch,
        )

    def tail(self, path: str, offset: str = "-1") -> StreamTail:
        """Return an asynchronous iterator over a stream's batches, which ends when it is closed.

        Raise `StreamError` if the path or the offset is malformed.
        """
        try:
            position = offsets.parse_offset(offset)
            name = _name(path)
        except Refused as refused:
            raise StreamError(refused.refusal) from None
        return StreamTail(self._store, self._long_polls, name, position, self._read_size)

    # -- internal --------------------------------------------------------------------------

    def _base(self) -> str | None:
        return self._settings.public_url or self._endpoint_url

    def _allow_local(self) -> bool:
        settings = self._settings
        if settings.allow_local_webhooks:
            return True
        # Behind a proxy or a public URL, a loopback port is reachable by others.
        private = settings.public_url is None and not settings.trust_proxy
        return private and self._all_loopback is True

    def _make_subscriptions(
        self, remote: Any, webhook_client: WebhookClient | None
    ) -> Subscriptions:
        settings, shared_keys = self._settings, self._store.keyring
        if settings.webhook_keys is not None:
            path = Path(settings.webhook_keys)
            shared_keys = KeyFile(path, shared=True, writable=False, reactor=self._reactor)
        return Subscriptions(
            self._store,
            self._reactor,
            now=self._time.now,
            keyring=Keyring(self._data_dir, self._wall, shared_keys)
            if remote is None
            else OwnerKeyring(lambda: remote.shared, self._wall),
            base=self._base,
            allow_local=self._allow_local,
            rotate=settings.rotate_webhook_key,
            caller=webhook_client,
        )

    def _make_store(self, data_dir: str | None, database: DatabaseSettings | None) -> Any:
        settings, timers = self._settings, self._timers
        common: dict[str, Any] = {
            "now": self._time.now,
            "lead": self._time.lead,
            "max_producers": settings.max_producers,
        }
        if database is None and data_dir is None:
            return MemoryStore(clock=timers, **common)
        # Imported here, so that a program with streams in memory does not load LMDB.
        from durable_streams_tw.storage.shared.executor import ThreadExecutor

        if database is not None:
            # Imported here, because psycopg is optional.
            from durable_streams_tw.storage.postgres.store import PostgresStore

            executors = [ThreadExecutor(self._reactor) for _ in range(3)]
            return PostgresStore(database, timers, *executors, **common)
        assert data_dir is not None, "a directory, if neither memory nor a database"
        from durable_streams_tw.storage.durable.store import DurableStore

        executor = ThreadExecutor(self._reactor)
        return DurableStore(data_dir, timers, executor, quota=settings.max_stored, **common)


def _response_headers(settings: Settings, authenticated: bool) -> ResponseHeaders:
    cookies = authenticated and settings.auth_cookie is not None
    vary = [b"Authorization"] * authenticated + [b"Cookie"] * cookies
    return ResponseHeaders(settings.cors_origins, tuple(vary), cookies, settings.cors_headers)


def _access_policy(settings: Settings, checkers: Sequence[ICredentialsChecker]) -> AccessPolicy:
    cookie = settings.auth_cookie if checkers else None
    return AccessPolicy(
        checkers=tuple(checkers),
        cookie=None if cookie is None else cookie.encode("ascii"),
        hosts=AllowedHosts(settings.allowed_hosts),
        origins=AllowedOrigins(settings.cors_origins),
        rate=settings.rate,
        trust_proxy=settings.trust_proxy,
        # Timers of live reads may fire a little late.
        max_live=1.1 * max(settings.sse_reconnect_interval, settings.long_poll_timeout) + 1,
    )


def _name(path: str) -> str:
    paths.check_stream_path(path)
    if paths.is_reserved(path):
        raise Refused(Problem.NOT_FOUND, "paths below __ds are reserved for control resources")
    return path


def _bytes(data: bytes | str) -> bytes:
    if isinstance(data, str):
        return data.encode("utf-8")
    if not isinstance(data, bytes):
        raise TypeError(f"data must be bytes or str, not {type(data).__name__}")
    return data


def _timestamp(moment: datetime | str | None) -> str | None:
    if not isinstance(moment, datetime):
        return moment
    if moment.tzinfo is None:
        raise ValueError("expires_at needs a time zone")
    return moment.isoformat()


def _header(*given: tuple[bytes, str | int | None]) -> dict[bytes, bytes]:
    return {name: str(value).encode("utf-8") for name, value in given if value is not None}


def _publish(call: Callable[[], Deferred[Any]], convert: Callable[[Any], T]) -> Deferred[T]:
    """Convert the outcome of a call to a public value, and refusals to `StreamError`."""

    def succeeded(outcome: Any) -> T:
        if isinstance(outcome, Refusal):
            raise StreamError(outcome)
        return convert(outcome)

    def failed(failure: Failure) -> T:
        refused = failure.value
        if isinstance(refused, Refused):
            raise StreamError(refused.refusal) from None
        failure.raiseException()

    return maybeDeferred(call).addCallbacks(succeeded, failed)
