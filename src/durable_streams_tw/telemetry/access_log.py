"""Access log: one event for each request, when the head of its response is known."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from twisted.logger import Logger
from twisted.web.server import Request as WebRequest

from durable_streams_tw.http.handlers.streams import RequestHandler
from durable_streams_tw.http.messages import Request, Response, StreamedBody
from durable_streams_tw.telemetry.logs import ACCESS_LOG
from durable_streams_tw.telemetry.observing_handler import Finish, ObservingHandler

#: Text of the log; the names are the keys of a JSON log.
FORMAT: Final = "{client} {method} {target} {status} {size} bytes {milliseconds} ms"

#: Status of a request whose client left before the response (as nginx logs it).
CLIENT_LEFT: Final = 499


class AccessLog:
    """Writer of an event per request. ``seconds`` is a monotonic time.

    With ``trust_proxy`` the client is the last entry of X-Forwarded-For.
    """

    _log = Logger(ACCESS_LOG)

    def __init__(self, seconds: Callable[[], float], *, trust_proxy: bool) -> None:
        self._seconds = seconds
        self._trust_proxy = trust_proxy

    def around(self, handler: RequestHandler) -> RequestHandler:
        """Return a handler that logs requests for streams and passes them to ``handler``."""
        return ObservingHandler(handler, self._begin, self._refused)

    def _begin(self, request: Request, host: str | None) -> Finish:
        start = self._seconds()
        path = request.root + request.path
        target = path + b"?" + request.query if request.query else path
        forwarded = request.headers.get(b"x-forwarded-for") if self._trust_proxy else None
        client = (forwarded or b"").rpartition(b",")[2].strip().decode("latin-1") or host

        def finish(response: Response | None) -> None:
            status = CLIENT_LEFT if response is None else response.status
            self._write(client, request.method, target, status, _size(response), start)

        return finish

    def _refused(self, response: Response) -> None:
        self._write(None, b"-", b"-", response.status, _size(response), self._seconds())

    def begin_web_request(self, request: WebRequest) -> Callable[[], None]:
        """Record the start of a request for another resource; return the function for its end."""
        start = self._seconds()
        client = getattr(request.getClientAddress(), "host", None)

        def finish() -> None:
            self._write(
                client, request.method, request.uri, request.code, request.sentLength, start
            )

        return finish

    def _write(
        self,
        client: str | None,
        method: bytes,
        target: bytes,
        status: int,
        size: int | None,
        start: float,
    ) -> None:
        self._log.info(
            FORMAT,
            # A dual-stack socket names IPv4 clients ::ffff:192.0.2.7.
            client=(client or "-").removeprefix("::ffff:"),
            method=_text(method),
            target=_text(target),
            status=status,
            size="-" if size is None else size,
            milliseconds=round((self._seconds() - start) * 1000, 1),
        )


def _size(response: Response | None) -> int | None:
    """Return the length of a body in bytes, None for one whose end is not known."""
    if response is None:
        return 0
    body = response.body
    if isinstance(body, bytes):
        return len(body)
    return body.size if isinstance(body, StreamedBody) else None


def _text(data: bytes) -> str:
    """Return raw bytes as printable ASCII; clients cannot forge lines."""
    return repr(data)[2:-1]
