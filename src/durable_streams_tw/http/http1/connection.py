"""HTTP/1.1 connections, between a `RequestParser` and the request handler.

1. Requests of one connection are executed one at a time, in order: a pipelined request may depend
   on the append before it.
2. Responses that are ready at the same time go out in one send.
3. While the client does not read, no further bytes are read from it. The transport signals that
   by pausing the connection, which is its producer.
4. A request that is not for a stream hands the connection over to a twisted.web site, for good.
5. When the server closes the connection, the client gets time to read the last response.

`Http1Connection._update_phase` derives the phase of a connection after each event, and with it
whether to read and which timeout applies. The timer wheel checks that timeout.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IHalfCloseableProtocol, IPushProducer
from twisted.internet.protocol import Protocol, connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from durable_streams_tw.http import limits
from durable_streams_tw.http.handlers.deferred_result import PendingResult
from durable_streams_tw.http.handlers.streams import Decision, Respond
from durable_streams_tw.http.http1.context import ConnectionContext
from durable_streams_tw.http.http1.parser import (
    EarlyResponse,
    Handover,
    MalformedRequest,
    RequestParser,
)
from durable_streams_tw.http.http1.response import (
    CONTINUE,
    LAST_CHUNK,
    encode_response,
    encode_streamed_head,
)
from durable_streams_tw.http.http1.streaming import StreamingResponse
from durable_streams_tw.http.messages import Follow, InvalidHeader, Request, Response, StreamedBody
from durable_streams_tw.http.refusals import BODY_MEMORY_EXHAUSTED, REQUEST_TIMEOUT
from durable_streams_tw.http.request_head import RequestHead
from durable_streams_tw.http.socket_writer import SocketWriter

_log = Logger()

# A body of this size is sent without copying it into one string with the bytes before it.
_SEPARATE_BODY: Final = 64 * limits.KIB


class Phase(Enum):
    """State of a connection, which determines its timeout."""

    IDLE = 0
    HEAD = 1
    BODY = 2
    RESPONSE = 3
    BLOCKED = 4
    CLOSING = 5
    UNKNOWN = 6
    # RESPONSE, if nothing but the response is awaited.
    ALONE = 7


IDLE, HEAD, BODY = Phase.IDLE, Phase.HEAD, Phase.BODY
RESPONSE, BLOCKED, CLOSING = Phase.RESPONSE, Phase.BLOCKED, Phase.CLOSING
UNKNOWN, ALONE = Phase.UNKNOWN, Phase.ALONE


@dataclass(slots=True, eq=False)
class UnreadBytes:
    """Unsent bytes of one connection, counted by the budget of all connections."""

    _connection: Http1Connection
    held: int = 0

    def refuse_body(self) -> None:
        """Reset the connection."""
        self._connection.abort_unread()


@implementer(IPushProducer, IHalfCloseableProtocol)
class Http1Connection(Protocol):
    """One connection of an `Http1Factory`."""

    #: Set by the timer wheel.
    wheel_slot = 0

    transport: Any

    def __init__(self, context: ConnectionContext, address: Any) -> None:
        self.address = address
        self._context = context
        self._wheel = context.wheel
        self._respond: Respond
        self._parser: RequestParser
        self._writer: SocketWriter
        # Takes received bytes in place of the parser. A function, since a bound method would be a
        # reference cycle that keeps the connection's bytes until the garbage collector runs.
        self._receiver: Callable[[Any, bytes], None] | None = None
        self._successor: Any = None
        # The request being executed: its head, its pending result, its streamed response.
        self._head: RequestHead | None = None
        self._pending: Deferred[Any] | PendingResult[Response] | None = None
        self._streaming: StreamingResponse | None = None
        # Handler of the incomplete request, once its head is authorized.
        self._admitted: Respond | None = None
        self._output: list[bytes] = []
        self._processing = False
        self._disconnected = False
        self._discarded = 0
        self._unread: UnreadBytes | None = None
        # The transport is full; reading is paused; the client has closed its side.
        self._blocked = False
        self._paused = False
        self._half_closed = False
        # The phase, its start in seconds, and the unsent bytes at that time.
        self.phase = IDLE
        self._since = 0.0
        self._unsent = 0
        # Bytes of bodies: those that the budget counts, and of those the ones being executed.
        self.held = 0
        self._executing = 0

    # -- Protocol -------------------------------------------------------------------------------

    def connectionMade(self) -> None:
        """Set up the parser and start the idle timeout."""
        context = self._context
        self._respond = context.responder(getattr(self.address, "host", None))
        self._writer = writer = SocketWriter(self.transport)
        self._parser = RequestParser(context.head_context(writer.secure, writer.local_address()))
        if writer.secure:
            # ALPN has a result only once the client has sent data.
            self._receiver = Http1Connection._receive_first
        self.transport.registerProducer(self, True)
        context.opened(self)
        self._enter(IDLE)

    def dataReceived(self, data: bytes) -> None:
        """Parse bytes and execute the requests that they complete."""
        if self._receiver is not None:
            self._receiver(self, data)
            return
        parser = self._parser
        complete = parser.feed(data)
        if complete is not None:
            if self.phase is IDLE:
                head, request = complete
                self._process_alone(head, request)
                return
            parser.queue.append(complete)
        if parser.queue and self._head is None and not self._blocked:
            self._process_queue()
        if self.phase is not IDLE or parser.consume is not None:
            self._update_phase()

    def readConnectionLost(self) -> None:
        """Note that the client has closed its side. It may still read, or have vanished."""
        self._half_closed = True
        if self._successor is not None:
            # twisted.web cannot be half-closed. Its unsent bytes are still delivered.
            self._receiver = Http1Connection._discard
            self._enter(CLOSING)
            self.transport.loseConnection()
        elif self.phase is CLOSING:
            self.transport.loseConnection()
        else:
            self.phase = UNKNOWN
            self._update_phase()

    def writeConnectionLost(self) -> None:
        """Do nothing: the server has closed its side itself."""

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Release everything, and cancel the request being executed."""
        self._disconnected = True
        self.phase = CLOSING
        self._receiver = Http1Connection._discard
        successor, self._successor = self._successor, None
        streaming, self._streaming = self._streaming, None
        pending, self._pending = self._pending, None
        self._parser.close()
        self._output.clear()
        if successor is not None:
            successor.connectionLost(reason)
        if streaming is not None:
            streaming.stop()
        if pending is not None:
            pending.cancel()
        self._account(0)
        self._release_unread()
        self._context.closed(self)

    # -- IPushProducer, for the transport -------------------------------------------------------

    def pauseProducing(self) -> None:
        """Stop sending: the transport is full."""
        self._blocked = True
        self._account_unread()
        if self._streaming is not None:
            self._streaming.pause()
        if self._processing:
            self.phase = UNKNOWN
        else:
            self._update_phase()

    def resumeProducing(self) -> None:
        """Send again: the transport is empty."""
        self._blocked = False
        self._release_unread()
        if self._streaming is not None:
            self._streaming.resume()
        self._resume()

    def stopProducing(self) -> None:
        """Do nothing: the transport calls `connectionLost` next."""

    def _account_unread(self) -> None:
        unread = self._unread
        if unread is None and not self._disconnected:
            unread = self._unread = UnreadBytes(self)
        budget = self._context.unread
        if unread is not None and not budget.account(unread, self._writer.unsent, True):
            unread.refuse_body()

    def _release_unread(self) -> None:
        unread, self._unread = self._unread, None
        if unread is not None:
            self._context.unread.account(unread, 0, arriving=False)

    def abort_unread(self) -> None:
        """Reset the connection, to free the memory of its unread bytes."""
        self._release_unread()
        # Not at once: the budget may call this from within a write of the transport.
        self._context.call_soon(self._abort_if_connected)

    def _abort_if_connected(self) -> None:
        if not self._disconnected:
            self.abort()

    # -- execution of requests ------------------------------------------------------------------

    def _resume(self) -> None:
        """Execute queued requests if none is being executed, and send gathered bytes."""
        free = self._head is None and self._receiver is None and not self._blocked
        if free and self._parser.queue:
            self._process_queue()
        elif self._output:
            self._context.flush_soon(self)
        self._update_phase()

    def _process_queue(self) -> None:
        """Execute queued requests in order, until one has to wait for its result."""
        context = self._context
        queue = self._parser.queue
        self.phase = UNKNOWN
        self._processing = True
        done = 0
        for item in queue:
            if done == limits.MAX_PIPELINE:
                # Yield to the reactor, so that one connection cannot starve the others.
                context.call_soon(self._resume)
                break
            done += 1
            if not isinstance(item, tuple):
                self._process_last(item)
                break
            head, request = item
            self._execute(head, request)
            if self._head is not None or self._blocked or self._receiver is not None:
                break
        else:
            if not self.held:
                self.phase = IDLE
                self._since = self._wheel.now
        del queue[:done]
        if self._output:
            context.flush_soon(self)
        self._processing = False

    def _process_alone(self, head: RequestHead, request: Request) -> None:
        """Execute the only request of an idle connection: `_process_queue` with less work."""
        self.phase = UNKNOWN
        self._processing = True
        self._execute(head, request)
        self._processing = False
        if self._output:
            self._context.flush_soon(self)
        if (
            self._blocked
            or self._executing
            or self._receiver is not None
            or self._streaming is not None
        ):
            self._update_phase()
        else:
            # No `_enter`: the scheduled idle timeout applies to both phases.
            self.phase = IDLE if self._pending is None else ALONE
            self._since = self._wheel.now

    def _execute(self, head: RequestHead, request: Request) -> None:
        if head.refusal is not None:
            context = self._context
            self._send_response(head, context.refuse(head.refusal, head.headers.get(b"origin")))
            return
        if self._admitted is None:
            result = self._respond(request)
        else:
            result, self._admitted = self._admitted(request), None
        if isinstance(result, Response):
            self._send_response(head, result)
            return
        self._head, self._pending = head, result
        if len(request.body) >= limits.LARGE_BODY:
            self._executing = len(request.body)
        result.addCallbacks(self._response_ready, self._response_failed)

    def _response_ready(self, response: Response) -> None:
        head, self._head, self._pending = self._head, None, None
        self._executing = 0
        if head is None or self._disconnected:
            return
        try:
            self._since = self._wheel.now
            self._send_response(head, response)
            if self._processing:
                return
            if self.phase is ALONE and self._streaming is None:
                self.phase = IDLE
                self._context.flush_soon(self)
            else:
                self._resume()
        except Exception:  # noqa: BLE001 - the store, which calls this, cannot handle it
            _log.failure("Error on an HTTP/1.1 connection, which is closed")
            self.abort()

    def _response_failed(self, failure: Failure) -> None:
        head = self._head
        if head is not None and not self._disconnected:
            self._response_ready(self._context.error_response(failure, head.headers.get(b"origin")))

    def _process_last(self, item: MalformedRequest | Handover | EarlyResponse) -> None:
        """Process an item after which the parser reads no more requests."""
        context = self._context
        if not isinstance(item, Handover):
            bodiless = False
            if isinstance(item, EarlyResponse):
                response, bodiless = item.response, item.bodiless
            else:
                response = context.refuse(item.refusal, item.origin)
            assert isinstance(response.body, bytes), "a refusal is not streamed"
            self._output += encode_response(
                context.status_lines[response.status],
                response,
                response.body,
                bodiless=bodiless,
                http10=False,
                last=True,
            )
            self._close()
        elif context.stopping:
            self._close()
        else:
            self._hand_over(context.build_site_protocol(self.address), bytes(self._parser.buffer))

    # -- decisions on heads, before the body has arrived ----------------------------------------

    def _decide(self) -> bool:
        """Authorize the incomplete request by its head.

        Returns False if its body may be received. Otherwise the phase is up to date.
        """
        parser = self._parser
        parser.undecided = False
        head = parser.current_head
        origin = head.headers.get(b"origin")
        if head.refusal is not None:
            if not parser.awaits_continue:
                # The end of the body is known, so the connection stays open after it.
                return False
            return self._apply_decision(self._context.refuse(head.refusal, origin))
        host = getattr(self.address, "host", None)
        decision = self._context.decide(host, parser.request_without_body())
        if not isinstance(decision, Deferred):
            return self._apply_decision(decision)
        self._head, self._pending = head, decision
        decision.addCallbacks(self._decision_ready, self._decision_failed)
        if self._pending is not None:
            self._update_phase()
        return True

    def _apply_decision(self, decision: Decision) -> bool:
        if isinstance(decision, Response):
            self._parser.respond_early(decision)
            self._resume()
            return True
        self._admitted = decision
        return False

    def _decision_ready(self, decision: Decision) -> None:
        self._head = self._pending = None
        if not self._disconnected and not self._apply_decision(decision):
            self._resume()

    def _decision_failed(self, failure: Failure) -> None:
        head = self._head
        if head is not None and not self._disconnected:
            self._decision_ready(self._context.error_response(failure, head.headers.get(b"origin")))

    # -- responses ------------------------------------------------------------------------------

    def _send_response(self, head: RequestHead, response: Response) -> None:
        context = self._context
        last = not head.keep_alive or context.stopping
        body = response.body
        try:
            if not isinstance(body, bytes):
                self._start_streaming(head, response, body, last)
                return
            data, rest = encode_response(
                context.status_lines[response.status],
                response,
                body,
                bodiless=head.method == b"HEAD",
                http10=head.http10,
                last=last,
            )
        except InvalidHeader:
            self._send_response(
                head, context.error_response(Failure(), head.headers.get(b"origin"))
            )
            return
        self._output.append(data)
        if rest:
            self._output.append(rest)
            if len(rest) >= _SEPARATE_BODY:
                output, self._output = self._output, []
                self._writer.send_parts(output)
        if last:
            self._close()

    def _start_streaming(
        self, head: RequestHead, response: Response, body: StreamedBody | Follow, last: bool
    ) -> None:
        """Send the head of a response, and start its streamed body. Raises `InvalidHeader`."""
        context = self._context
        size, follow = (body.size, body.follow) if isinstance(body, StreamedBody) else (None, body)
        status_line = context.status_lines[response.status]
        self._output.append(
            encode_streamed_head(status_line, response, size, http10=head.http10, last=last)
        )
        self.flush()
        self._head = head
        self._streaming = StreamingResponse(
            self,
            None if head.http10 or size is not None else context.chunks,
            sized=size is not None,
            ends=isinstance(body, StreamedBody),
        )
        self._parser.release_memory()
        self._streaming.start(follow)

    def flush(self) -> None:
        """Send the gathered bytes."""
        output = self._output
        if output:
            data = output[0] if len(output) == 1 else b"".join(output)
            output.clear()
            self._writer.send(data)

    def write_body(self, data: bytes) -> None:
        """Send bytes of a streamed body."""
        if self._output or self._processing:
            self._output.append(data)
        else:
            self._writer.send(data)

    def end_body(self, chunked: bool, delimited: bool) -> None:
        """End a streamed body; ``delimited`` is true if the client can tell that it is complete."""
        head, self._head, self._streaming = self._head, None, None
        assert head is not None, "a streamed body belongs to a request"
        if chunked:
            self._output.append(LAST_CHUNK)
        if not delimited or not head.keep_alive or self._context.stopping:
            self._close()
        elif not self._processing:
            self._resume()

    # -- end of the connection ------------------------------------------------------------------

    def _receive_first(self, data: bytes) -> None:
        """Choose HTTP/1.1 or HTTP/2 by the result of ALPN."""
        self._receiver = None
        if getattr(self.transport, "negotiatedProtocol", None) == b"h2":
            self._hand_over(self._context.build_http2_protocol(self.address), data)
        else:
            self.dataReceived(data)

    def _hand_over(self, successor: Any, data: bytes) -> None:
        """Pass the connection, and the bytes that follow, to another protocol."""
        self.flush()
        self._account(0)
        self.phase = CLOSING
        self._wheel.cancel(self)
        self._parser.buffer.clear()
        self.transport.unregisterProducer()
        if self._paused:
            self.transport.resumeProducing()
        self._successor = successor
        self._receiver = Http1Connection._pass_on
        successor.makeConnection(self.transport)
        successor.dataReceived(data)

    def _pass_on(self, data: bytes) -> None:
        self._successor.dataReceived(data)

    def _close(self) -> None:
        """Close the connection after the gathered bytes."""
        self.flush()
        self._account(0)
        self._receiver = Http1Connection._discard
        discarded = self._parser.discarded
        self._parser.close()
        self._writer.close(
            linger=discarded and not self._half_closed, hang_up=self._context.stopping
        )
        self._enter(CLOSING)

    def abort(self) -> None:
        """Reset the connection at once."""
        self._receiver = Http1Connection._discard
        self._parser.close()
        self._output.clear()
        self._enter(CLOSING)
        self._writer.abort()

    def drain(self) -> None:
        """Close the connection if it is idle: the server stops.

        A busy connection closes after its response, since ``context.stopping`` is set.
        """
        receiver = self._receiver
        unused = receiver is None or receiver is Http1Connection._receive_first
        if unused and self._head is None and not self._parser.queue:
            self._close()

    def _discard(self, data: bytes) -> None:
        """Discard bytes that arrive after the end, and stop reading above a limit."""
        self._discarded += len(data)
        if self._discarded > limits.LINGER_BYTES and not self._disconnected:
            self.transport.pauseProducing()

    # -- phase and reading ----------------------------------------------------------------------

    def _update_phase(self) -> None:
        """Derive the phase, account for held bytes, and pause or resume reading."""
        if self._receiver is not None:
            return
        parser = self._parser
        busy = self._head is not None or bool(parser.queue)
        streaming = self._streaming
        if self._half_closed and (not busy if streaming is None else not streaming.ends):
            # A half-closed client without a pending response, or with a live one, has left.
            if streaming is None:
                self._close()
            else:
                self.abort()
            return
        held = parser.held
        if not self._account(held + self._executing):
            self.refuse_body()
            return
        full = (
            self._blocked
            or len(parser.queue) > limits.MAX_PIPELINE
            or (busy and held > limits.READ_AHEAD)
        )
        if full is not self._paused and not self._half_closed:
            self._paused = full
            if full:
                self.transport.pauseProducing()
            else:
                self.transport.resumeProducing()
        if self._blocked:
            phase = BLOCKED
        elif busy:
            phase = RESPONSE
        elif parser.in_head:
            phase = HEAD
        elif parser.in_body:
            if parser.undecided and self._decide():
                return
            phase = BODY
            self._since = self._wheel.now
            if parser.awaits_continue:
                parser.awaits_continue = False
                # Responses to earlier requests go first.
                self.flush()
                self._writer.send(CONTINUE)
        else:
            phase = IDLE
        if phase is not self.phase:
            self._enter(phase)

    def _enter(self, phase: Phase) -> None:
        self.phase = phase
        self._unsent = self._writer.unsent
        self._since = self._context.check_after(self, self._timeout())

    def _account(self, held: int) -> bool:
        """Count held bytes of bodies; return False if the incomplete body must be refused."""
        return self._context.bodies.account(self, held, self._parser.in_body)

    def refuse_body(self) -> None:
        """Refuse the incomplete body, to free memory for others."""
        self._parser.refuse(BODY_MEMORY_EXHAUSTED)
        self._account(self._parser.held + self._executing)
        self._resume()

    # -- timeouts -------------------------------------------------------------------------------

    def check_deadline(self, now: float) -> float:
        """Act on the timeout of the phase; return the time of the next check."""
        passed = now - self._since
        if passed >= self._timeout():
            phase = self.phase
            if phase is IDLE:
                self._close()
            elif phase is HEAD or phase is BODY:
                self._parser.refuse(REQUEST_TIMEOUT)
                self._resume()
            elif phase is ALONE or (phase is RESPONSE and not self._half_closed):
                self._since = now
            else:
                unsent = self._writer.unsent
                if phase is not RESPONSE and unsent < self._unsent:
                    self._since, self._unsent = now, unsent
                else:
                    self.abort()
        return self._since + self._timeout()

    def _timeout(self) -> float:
        """Return how many seconds the phase may last, or last without progress."""
        phase = self.phase
        if phase is HEAD:
            return self._context.settings.head_timeout
        if phase is BODY:
            return self._context.settings.body_timeout
        if phase is BLOCKED or (phase is CLOSING and self._writer.unsent):
            return limits.SEND_TIMEOUT
        if phase is CLOSING:
            return limits.LINGER
        if phase is RESPONSE and self._half_closed:
            return limits.HALF_CLOSED_TIMEOUT
        return self._context.settings.idle_timeout
