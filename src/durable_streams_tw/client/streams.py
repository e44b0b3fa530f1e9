"""Operations on streams of any server (PROTOCOL.md §5)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from random import random
from typing import Any, Final, TypeVar

from msgspec import Struct
from twisted.internet.task import deferLater

from durable_streams_tw.client.backoff import Patience
from durable_streams_tw.client.errors import (
    BadTarget,
    Broken,
    OutcomeUnknown,
    Rejected,
    Unreachable,
    about,
    detail_of,
    problem_of,
    retry_after,
)
from durable_streams_tw.client.transport import Answer, Response, Wire
from durable_streams_tw.client.urls import Target

T = TypeVar("T")

UNAUTHORIZED: Final = 401


class Info(Struct, frozen=True):
    """Metadata of a stream at one moment.

    ``offset`` is its tail. ``ttl`` (seconds) and ``expires_at`` (RFC 3339) are those that the
    server reports. ``created`` is true if the request created the stream.
    """

    content_type: str
    offset: str
    closed: bool
    ttl: int | None = None
    expires_at: str | None = None
    created: bool = False


class Written(Struct, frozen=True):
    """Result of an append: the tail of the stream, and whether the stream is closed.

    ``duplicate`` is true if the server had accepted the producer's batch before, ``numbered`` if
    the server deduplicates the producer's batches.
    """

    offset: str
    closed: bool
    duplicate: bool = False
    numbered: bool = False


class StreamClient:
    """Client for streams of any server.

    ``wire`` sends the requests. ``header`` returns headers for each request, such as a token. It
    is called for every request, and again after a 401 response: if the headers have changed, the
    request is sent again.

    ``endure`` is the maximum duration of consecutive failures in seconds: 0 disables retries, None
    sets no limit. ``random`` returns a number from 0 to 1, for jitter. ``notice`` is called with a
    message before the first retry of an operation.

    The methods that send requests raise `ClientError`.
    """

    def __init__(
        self,
        wire: Wire,
        header: Callable[[], Mapping[str, str]] = dict,
        *,
        endure: float | None = 30.0,
        random: Callable[[], float] = random,
        notice: Callable[[str], None] = lambda sentence: None,
    ) -> None:
        self.wire = wire
        self._header = header
        self._endure = endure
        self._random = random
        self._notice = notice

    # -- writes -----------------------------------------------------------------------------

    async def create(
        self,
        target: Target,
        content_type: str | None = None,
        data: bytes = b"",
        *,
        ttl: int | None = None,
        expires_at: datetime | str | None = None,
        closed: bool = False,
        source: Target | None = None,
        fork_offset: str | None = None,
        fork_sub_offset: int | None = None,
    ) -> Info:
        """Create a stream unless it exists (PROTOCOL.md §5.1).

        With ``source``, create a fork of it (§4.2). ``ttl`` is in seconds. Raises `BadTarget` if
        the source is on another server.
        """
        if source is not None and source.origin != target.origin:
            raise BadTarget("a fork is on the same server as its source")
        moment = expires_at.isoformat() if isinstance(expires_at, datetime) else expires_at
        header = _fields(
            ("Content-Type", content_type),
            ("Stream-TTL", ttl),
            ("Stream-Expires-At", moment),
            ("Stream-Closed", "true" if closed else None),
            ("Stream-Forked-From", None if source is None else source.path),
            ("Stream-Fork-Offset", fork_offset),
            ("Stream-Fork-Sub-Offset", fork_sub_offset),
        )
        # PUT is idempotent: a retry returns the stream that the first attempt created.
        answer = await self.insist(
            lambda: self.ask("PUT", target.url, header, data), again=lambda _: True
        )
        with about(target.url):
            return _info(answer, answer.status == 201)

    async def append(
        self,
        target: Target,
        data: bytes,
        content_type: str,
        *,
        close: bool = False,
        seq: str | None = None,
    ) -> Written:
        """Append data, and close the stream with it if ``close`` is set (PROTOCOL.md §5.2).

        A retry could append the data twice, so a failed request is retried only if the server
        has certainly not carried it out. Raises `OutcomeUnknown` if the response was lost or may
        be that of a proxy. Use a `Producer` for appends that can be retried.
        """
        header = _fields(
            ("Content-Type", content_type),
            ("Stream-Closed", "true" if close else None),
            ("Stream-Seq", seq),
        )
        try:
            answer = await self.insist(
                lambda: self.ask("POST", target.url, header, data), again=_without_effect
            )
        except (Broken, Rejected, Unreachable) as error:
            if not isinstance(error, Broken) and _without_effect(error):
                raise
            with about(target.url):
                raise OutcomeUnknown(
                    f"{error.args[0]}; the bytes may have been appended or not"
                ) from error
        return written(answer)

    async def close(self, target: Target) -> Written:
        """Close a stream (PROTOCOL.md §5.3). Closing is idempotent."""
        header = {"Stream-Closed": "true"}
        answer = await self.insist(
            lambda: self.ask("POST", target.url, header), again=lambda _: True
        )
        return written(answer)

    async def delete(self, target: Target) -> None:
        """Delete a stream (PROTOCOL.md §5.4)."""
        gone = {404, 410}
        doubtful = False

        async def attempt() -> None:
            nonlocal doubtful
            try:
                await self.ask("DELETE", target.url)
            except Unreachable as error:
                doubtful = doubtful or error.sent
                raise
            except Rejected as error:
                # An earlier attempt, whose response was lost, may have deleted the stream.
                if not (doubtful and error.status in gone):
                    raise

        await self.insist(attempt, again=lambda _: True)

    # -- reads ------------------------------------------------------------------------------

    async def head(self, target: Target) -> Info:
        """Return the current metadata of a stream (PROTOCOL.md §5.5)."""
        answer = await self.insist(lambda: self.ask("HEAD", target.url), again=lambda _: True)
        with about(target.url):
            return _info(answer)

    # -- for the other parts of the client ------------------------------------------------------

    async def ask(
        self,
        method: str,
        url: str,
        header: Mapping[str, str] | None = None,
        body: bytes | None = None,
        wait: float | None = None,
    ) -> Answer:
        """Send a request and return its whole response, without retries of failures.

        ``wait`` is as in `Wire.ask`. Raises `Rejected` unless the status is 2xx.
        """
        with about(url):
            fields = self.fields(header)
            answer = await self.wire.ask(method, url, fields, body, wait)
            while answer.status == UNAUTHORIZED and (renewed := self.fields(header)) != fields:
                # The token may have expired before the server checked it: use the renewed one.
                fields = renewed
                answer = await self.wire.ask(method, url, fields, body, wait)
            return self.judged(answer)

    async def open(
        self,
        url: str,
        header: Mapping[str, str] | None = None,
        wait: float | None = None,
        quiet: float | None = None,
    ) -> Response:
        """Send a GET request and return its response once the head is there (see `Wire.open`).

        The caller must close the body. Raises `Rejected` unless the status is 2xx.
        """
        with about(url):
            fields = self.fields(header)
            response = await self.wire.open("GET", url, fields, wait=wait, quiet=quiet)
            while response.status == UNAUTHORIZED and (renewed := self.fields(header)) != fields:
                response.body.close()
                fields = renewed
                response = await self.wire.open("GET", url, fields, wait=wait, quiet=quiet)
            if not 200 <= response.status < 300:
                try:
                    body = await response.body.whole()
                finally:
                    response.body.close()
                self.judged(Answer(response.status, response.header, body))
            return response

    def fields(self, header: Mapping[str, str] | None = None) -> dict[str, str]:
        """Return the headers of a request, including those of all requests."""
        return {**self._header(), **(header or {})}

    def judged(self, answer: Answer) -> Answer:
        """Return the response if its status is 2xx. Raises `Rejected` otherwise."""
        if 200 <= answer.status < 300:
            return answer
        said = detail_of(answer.header.get("content-type", ""), answer.body)
        if 300 <= answer.status < 400 and "location" in answer.header:
            said = f"the stream has moved to {answer.header['location']}"
        problem = problem_of(answer.header.get("content-type", ""), answer.body)
        raise Rejected(answer.status, answer.header, said, problem)

    def patience(self) -> Patience:
        """Return a new backoff for one operation, with the client's retry limit."""
        return Patience(self._endure, self.wire.timers.seconds, self._random)

    async def rest(self, patience: Patience, error: Exception) -> None:
        """Wait before the next attempt, or raise ``error`` if the retry limit is reached."""
        first = not patience.tried
        asked = 0.0
        if isinstance(error, Rejected):
            asked = retry_after(error.header, self.wire.wall())
        pause = patience.failed(asked)
        if pause is None:
            raise error
        if first:
            self._notice(f"{error}; trying again")
        await self.pause(pause)

    async def pause(self, seconds: float) -> None:
        """Wait for a time in seconds."""
        clock: Any = self.wire.timers
        await deferLater(clock, seconds)

    async def insist(
        self,
        attempt: Callable[[], Any],
        again: Callable[[Rejected | Unreachable], bool],
    ) -> Any:
        """Call ``attempt`` until it succeeds, and return its result.

        Retries transient errors for which ``again`` returns true, that is, if the request can be
        repeated safely. Raises other errors, and the last one when the retry limit is reached.
        """
        patience = self.patience()
        while True:
            try:
                return await attempt()
            except (Rejected, Unreachable) as error:
                if not (passing(error) and again(error)):
                    raise
                await self.rest(patience, error)


def passing(error: Rejected | Unreachable) -> bool:
    """Return whether an error is transient."""
    return isinstance(error, Unreachable) or error.passing


def written(answer: Answer) -> Written:
    """Return the result of an append from its response."""
    numbered = "producer-epoch" in answer.header or "producer-seq" in answer.header
    return Written(
        answer.header.get("stream-next-offset", ""),
        is_true(answer, "stream-closed"),
        answer.status == 204 and numbered,
        numbered,
    )


def is_true(answer: Answer, name: str) -> bool:
    """Return whether a header has the value ``true`` in any case (PROTOCOL.md §4.1)."""
    return answer.header.get(name, "").lower() == "true"


def next_offset(answer: Answer) -> str:
    """Return the Stream-Next-Offset of a response. Raises `Broken` if it is missing."""
    offset = answer.header.get("stream-next-offset")
    if not offset:
        raise Broken("the answer has no Stream-Next-Offset: is this URL a durable stream?")
    return offset


def _without_effect(error: Rejected | Unreachable) -> bool:
    """Return whether the server has certainly not carried out the request that failed."""
    return not error.sent if isinstance(error, Unreachable) else error.definite


def _info(answer: Answer, created: bool = False) -> Info:
    ttl = answer.header.get("stream-ttl", "")
    return Info(
        answer.header.get("content-type", ""),
        next_offset(answer),
        is_true(answer, "stream-closed"),
        int(ttl) if ttl.isascii() and ttl.isdigit() else None,
        answer.header.get("stream-expires-at"),
        created,
    )


def _fields(*given: tuple[str, str | int | None]) -> dict[str, str]:
    return {name: str(value) for name, value in given if value is not None}
