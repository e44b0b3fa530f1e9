"""`DurableStreams`: everything wired together, as a server's heart or inside a program."""

from __future__ import annotations

from collections.abc import Callable, Sequence, Sized
from datetime import datetime
from functools import partial
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
from durable_streams_tw.embedded.tail import Following
from durable_streams_tw.embedded.values import Batch, StreamError, StreamInfo, Written
from durable_streams_tw.http.handlers.authorization import AccessPolicy, AuthorizedHandler
from durable_streams_tw.http.handlers.reads import ReadHandler
from durable_streams_tw.http.handlers.streams import RequestHandler, StreamHandler
from durable_streams_tw.http.handlers.subscriptions import SubscriptionHandler
from durable_streams_tw.http.handlers.writes import InThread, WriteHandler
from durable_streams_tw.http.headers import ResponseHeaders
from durable_streams_tw.http.http1.factory import Http1Factory
from durable_streams_tw.http.limits import MAX_CHUNK, WORK_THREADS
from durable_streams_tw.http.operators.authorized import AuthorizedOperators
from durable_streams_tw.http.operators.listing import StreamListing
from durable_streams_tw.http.operators.resources import RootResource
from durable_streams_tw.http.operators.server_stats import ServerStats
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
from durable_streams_tw.storage.api import IStreamStore
from durable_streams_tw.storage.memory.store import MemoryStore
from durable_streams_tw.subscriptions.service import Subscriptions
from durable_streams_tw.subscriptions.webhook_client import WebhookClient

if TYPE_CHECKING:
    from twisted.cred.checkers import ICredentialsChecker

T = TypeVar("T")

Producer = tuple[str, int, int]
"""An idempotent producer's id, epoch, and the sequence number of this batch (§5.2.1)."""


class DurableStreams(Service):
    """A set of durable streams: over HTTP through `resource`, in the process through methods.

    With ``data_dir`` the streams are kept in that directory, which is made if it is missing;
    without it they are in memory, and gone with the process. A service: start it before use,
    with `startService` or as part of an application, and stop it to let readers go and to
    close the store. It is started once.

    ``reactor`` (default: the global one) gives time, threads and connections. ``store``,
    ``in_thread`` and ``caller`` stand in for what these would make of it. ``checkers`` of
    twisted.cred know the tokens of clients (`auth.identities.IBearerToken`); without any,
    everybody may do everything.

    Methods that return a Deferred fail it with `StreamError` where the streams refuse.
    Stream names are as in a URL behind the root, but not percent-encoded: ``chat/42``.
    Writes to one stream are carried out in the order of the calls: nobody has to wait for
    one before the next. Cancelling does not undo them.
    """

    def __init__(
        self,
        data_dir: str | None = None,
        *,
        settings: Settings | None = None,
        reactor: Any = None,
        store: IStreamStore | None = None,
        in_thread: InThread | None = None,
        caller: WebhookClient | None = None,
        checkers: Sequence[ICredentialsChecker] = (),
        around: Callable[[RequestHandler], RequestHandler] | None = None,
    ) -> None:
        if reactor is None:
            from twisted.internet import reactor
        self._reactor = reactor
        #: Timers, on monotonic time; deadlines that a client or an issuer names are the wall
        #: clock's; what a store counts from "now" runs by `clocks.StreamTime`.
        timers = clocks.monotonic_timers(reactor)
        wall = clocks.wall_clock(reactor)
        self._timers = timers
        self._time = clocks.stream_time(reactor)
        self._settings = settings = settings or Settings()
        self._work = WorkerPool(reactor, WORK_THREADS, "durable-streams-work")
        # A scrape does not queue for clients' bodies.
        self._reports = WorkerPool(reactor, 1, "durable-streams-report")
        self._in_thread = in_thread or self._work
        self._report = in_thread or self._reports
        self._started = self._released = False
        if store is None:
            store = self._in_memory() if data_dir is None else self._on_disk(data_dir)
        self._store = store
        self._registry = registry = FollowerRegistry(store, timers)
        self._long_polls = LongPolls(store, registry, timers, settings.long_poll_timeout)
        piece_size = PieceSize()
        self._fanout = Broadcaster(
            store,
            registry,
            timers,
            settings.sse_reconnect_interval,
            random=random,
            piece_size=piece_size,
            wall=wall,
        )
        self._transfers = Transfers(store, registry, self._in_thread, piece_size)
        self._batch = settings.max_chunk or MAX_CHUNK
        self._writing = WriteHandler(store, lambda: int(wall() * 1000), self._in_thread)
        cookie = settings.auth_cookie if checkers else None
        credentials = (b"Authorization", b"Cookie") if cookie else (b"Authorization",)
        self._policies = ResponseHeaders(
            settings.cors_origins,
            credentials if checkers else (),
            cookie is not None,
            settings.cors_headers,
        )
        reads = ReadHandler(
            store,
            self._long_polls,
            self._fanout,
            self._transfers,
            self._policies,
            wall=wall,
            random=random,
            in_thread=self._in_thread,
            max_chunk=settings.max_chunk,
            private=settings.private or bool(checkers),
        )
        # Connections of the outermost door.
        self._connections: Sized = ()
        # Where the ports are, as far as anybody has said.
        self._reached_at: str | None = None
        self._loopback: bool | None = None
        self._subscriptions = Subscriptions(
            store,
            reactor,
            now=self._time.now,
            directory=data_dir,
            base=self._base,
            allow_local=self._allow_local,
            rotate=settings.rotate_webhook_key,
            caller=caller,
        )
        control = SubscriptionHandler(self._subscriptions, self._policies)
        self.operations = StreamHandler(store, self._writing, reads, self._policies, control)
        conditions = AccessPolicy(
            checkers=tuple(checkers),
            cookie=None if cookie is None else cookie.encode("ascii"),
            hosts=AllowedHosts(settings.allowed_hosts),
            origins=AllowedOrigins(settings.cors_origins),
            rate=settings.rate,
            trust_proxy=settings.trust_proxy,
            # Equal timeouts may fire a little later.
            max_live=1.1 * max(settings.sse_reconnect_interval, settings.long_poll_timeout) + 1,
        )
        #: What asks requests for credentials and more; None where nothing is asked.
        self.admission: AuthorizedHandler | None = None
        served: RequestHandler = self.operations
        if conditions:
            served = self.admission = AuthorizedHandler(
                self.operations, self._policies, self._subscriptions, conditions, timers, wall
            )
        if around is not None:
            served = around(served)
        self._served = served
        self._tree = StreamResources(served, settings, timers)

    # -- service ----------------------------------------------------------------------------

    def startService(self) -> None:
        """Open the store. Raises `StoreUnusable`, whose message is for the operator."""
        if self._started:
            raise RuntimeError("these streams were started before: make new ones")
        self._store.open()
        try:
            self._subscriptions.start()
        except BaseException:
            self._store.close()
            raise
        self._started = True
        Service.startService(self)

    def release(self) -> Deferred[None]:
        """Let all waiting readers go: long-polls are answered, event streams end.

        Fires when they have been; a second call has nothing to do.
        """
        if self._released:
            return succeed(None)
        self._released = True
        return stop_all(self._fanout.stop, self._long_polls.stop)

    def stopService(self) -> Deferred[None]:
        """Let readers go, end webhook calls, finish what was accepted, close the store."""
        Service.stopService(self)
        return stop_all(
            self.release,
            self._subscriptions.stop,
            self._store.close,
            self._work.stop,
            self._reports.stop,
        )

    def reached_at(self, url: str | None, loopback: bool) -> None:
        """Say where a port is: the URL of the streams' root there, None where it has none, and
        whether only this machine can reach it.

        The first one is where webhooks call back, unless the settings have a public URL. While
        all are on the loopback, and nothing says that a proxy is before them, webhooks may lead
        there too.
        """
        self._reached_at = self._reached_at or url
        self._loopback = loopback and self._loopback is not False

    # -- doors ------------------------------------------------------------------------------

    def resource(self, root: bytes = b"") -> IResource:
        """The streams as a resource, to be mounted in any site, under any prefix.

        ``root``, a raw path that ends with a slash, moves the streams further down.
        """
        return self._tree.resource(root)

    def site(self, root: bytes = b"v1/stream/", operators: IResource | None = None) -> StreamSite:
        """A whole site for these streams alone, with bounds on what it takes in.

        ``operators`` (an `operators.OperatorTree`) is found below ``/-/``.
        """
        resource = self.resource(root)
        if operators is not None:
            if self.admission is not None:
                operators = AuthorizedOperators(operators, self.admission)
            resource = RootResource(operators, resource)
        site = StreamSite(
            resource,
            self._served,
            self._policies,
            self._settings,
            self._timers,
            b"/" + root,
            clocks.wall_clock(self._reactor),
        )
        site.decide = partial(self._tree.decide, b"/" + root)
        self._connections = site.connections
        return site

    def door(self, root: bytes = b"v1/stream/", operators: IResource | None = None) -> Http1Factory:
        """The same as a factory that answers HTTP/1.1 requests for streams by itself, much faster.

        All else it leaves to a `site`.
        """
        door = Http1Factory(
            self._served,
            self.site(root, operators),
            self._timers,
            b"/" + root,
            self._settings,
            clocks.wall_clock(self._reactor),
        )
        self._connections = door.connections
        return door

    def listing(self, root: bytes = b"v1/stream/") -> IResource:
        """What lists the streams for operators, to be put into their tree as ``streams``."""
        listing: IResource = StreamListing(self._store, root)
        return listing

    def observed(self) -> ServerStats:
        """What operators see of these streams; counting begins now."""
        return ServerStats(
            self._store,
            self._fanout,
            self._long_polls,
            self._registry,
            self._subscriptions.calls,
            lambda: self._connections,
            self._timers,
            self._report,
            not isinstance(self._store, MemoryStore),
        )

    # -- in the process ---------------------------------------------------------------------

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
        """Make a stream, or make sure that it is there (§5.1).

        ``ttl`` is in seconds; ``expires_at`` an aware datetime or an RFC 3339 timestamp;
        ``forked_from`` the name of a stream whose first part it shares (§4.2).
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
        return _told(
            lambda: self._writing.create(_name(path), header, _bytes(data), b""),
            values.created_from,
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
        """Add bytes to the end of a stream, and perhaps close it with them (§5.2).

        In JSON mode ``data`` is JSON: one message, or an array of them. Without a
        ``content_type`` it is taken to be the stream's.
        """
        named, epoch, number = producer or (None, None, None)
        header = _header(
            (headers.CONTENT_TYPE, content_type),
            (headers.STREAM_CLOSED, "true" if close else None),
            (headers.STREAM_SEQ, seq),
            (headers.PRODUCER_ID, named),
            (headers.PRODUCER_EPOCH, epoch),
            (headers.PRODUCER_SEQ, number),
        )
        raw = _bytes(data)
        write = self._writing.append
        if raw and content_type is None:
            write = self._writing.append_untyped
        return _told(lambda: write(_name(path), header, raw), values.written_from)

    def close(self, path: str, *, producer: Producer | None = None) -> Deferred[Written]:
        """End a stream: nothing can be appended any more (§5.3)."""
        return self.append(path, close=True, producer=producer)

    def delete(self, path: str) -> Deferred[None]:
        """Remove a stream and all its bytes (§5.4)."""
        return _told(lambda: self._writing.delete(_name(path), {}), lambda _: None)

    def head(self, path: str) -> Deferred[StreamInfo]:
        """What a stream is now (§5.5). Does not count as an access."""
        return _told(lambda: self._store.get_state(_name(path)), values.info_of)

    def read(self, path: str, offset: str = "-1", limit: int | None = None) -> Deferred[Batch]:
        """Bytes of a stream from an offset, about ``limit`` of them at most (§5.6)."""
        size = limit or self._batch
        return _told(
            lambda: self._store.read(_name(path), offsets.parse_offset(offset), size),
            values.batch_of,
        )

    def tail(self, path: str, offset: str = "-1") -> Following:
        """A stream's batches from an offset on, for ``async for``; ends when it is closed.

        Raises `StreamError` where path or offset are malformed.
        """
        try:
            position = offsets.parse_offset(offset)
            name = _name(path)
        except Refused as refused:
            raise StreamError(refused.refusal) from None
        return Following(self._store, self._long_polls, name, position, self._batch)

    # -- its own ----------------------------------------------------------------------------

    def _base(self) -> str | None:
        return self._settings.public_url or self._reached_at

    def _allow_local(self) -> bool:
        settings = self._settings
        if settings.allow_local_webhooks:
            return True
        # Whoever has a proxy or a public URL is reached by others all the same.
        alone = settings.public_url is None and not settings.trust_proxy
        return alone and self._loopback is True

    def _in_memory(self) -> IStreamStore:
        return MemoryStore(
            self._time.now, self._timers, self._time.lead, self._settings.max_producers
        )

    def _on_disk(self, data_dir: str) -> IStreamStore:
        # Here, so that a program whose streams are in memory does without LMDB.
        from durable_streams_tw.storage.durable.executor import ThreadExecutor
        from durable_streams_tw.storage.durable.store import DurableStore

        executor = ThreadExecutor(self._reactor, self._timers)
        store: IStreamStore = DurableStore(
            data_dir,
            self._timers,
            executor,
            quota=self._settings.max_stored,
            now=self._time.now,
            lead=self._time.lead,
            max_producers=self._settings.max_producers,
        )
        return store


def _name(path: str) -> str:
    paths.check_stream_path(path)
    if paths.is_reserved(path):
        raise Refused(Problem.NOT_FOUND, "paths below __ds are reserved for control resources")
    return path


def _bytes(data: bytes | str) -> bytes:
    return data.encode("utf-8") if isinstance(data, str) else data


def _timestamp(moment: datetime | str | None) -> str | None:
    if not isinstance(moment, datetime):
        return moment
    if moment.tzinfo is None:
        raise ValueError("expires_at needs a time zone")
    return moment.isoformat()


def _header(*given: tuple[bytes, str | int | None]) -> dict[bytes, bytes]:
    return {name: str(value).encode("utf-8") for name, value in given if value is not None}


def _told(ask: Callable[[], Deferred[Any]], tell: Callable[[Any], T]) -> Deferred[T]:
    """What came of a question, as a public value or as `StreamError`."""

    def answered(outcome: Any) -> T:
        if isinstance(outcome, Refusal):
            raise StreamError(outcome)
        return tell(outcome)

    def failed(failure: Failure) -> T:
        refused = failure.value
        if isinstance(refused, Refused):
            raise StreamError(refused.refusal) from None
        failure.raiseException()

    return maybeDeferred(ask).addCallbacks(answered, failed)
