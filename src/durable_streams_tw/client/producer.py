"""Idempotent producer: batches are appended once, even if retried (PROTOCOL.md §5.2.1)."""

from __future__ import annotations

from typing import Final
from uuid import uuid4

from durable_streams_tw.client.errors import (
    BadProducer,
    Broken,
    Fenced,
    OutcomeUnknown,
    Rejected,
    Unreachable,
    about,
)
from durable_streams_tw.client.streams import StreamClient, Written, passing, written
from durable_streams_tw.client.transport import Answer
from durable_streams_tw.client.urls import Target
from durable_streams_tw.protocol.limits import MAX_SAFE_INTEGER, MAX_TOKEN

_FORBIDDEN: Final = 403
_UNKNOWN: Final = "the batch may have been appended or not"


class Producer:
    """Idempotent producer of one stream. Call `send` only after the previous call has finished.

    Without a ``name``, the producer gets a random name and epoch 0. With a name, it fences earlier
    producers of that name: its epoch is ``epoch``, by default the current time in ms since the
    Unix epoch. Transient errors are retried up to the client's retry limit.

    Raises `BadProducer` if the name is empty, too long or not printable, or the epoch is negative
    or above 2**53 - 1.
    """

    def __init__(
        self,
        client: StreamClient,
        target: Target,
        content_type: str,
        *,
        name: str | None = None,
        epoch: int | None = None,
    ) -> None:
        if name is not None and not (
            name and name.isprintable() and name == name.strip() and len(name.encode()) <= MAX_TOKEN
        ):
            raise BadProducer(
                f"a producer's name is printable text of 1 to {MAX_TOKEN} bytes: {name!r}"
            )
        if epoch is not None and not 0 <= epoch <= MAX_SAFE_INTEGER:
            raise BadProducer(f"a producer's epoch is a number from 0 to 2**53 - 1, not {epoch}")
        self._client = client
        self._target = target
        self.content_type = content_type
        self._may_claim = epoch is None
        if epoch is None:
            epoch = 0 if name is None else int(client.wire.wall() * 1000)
        self.name = str(uuid4()) if name is None else name
        self.epoch = epoch
        self._seq = 0
        # True if an attempt of the current batch may have been carried out without a response.
        self._doubtful = False
        self._numbered: bool | None = None

    async def send(self, data: bytes = b"", *, close: bool = False) -> Written:
        """Append a batch, and close the stream with it if ``close`` is set.

        Without data, only close the stream. Raises `Fenced` if another producer of this name has
        taken over or has used the sequence number; `OutcomeUnknown` if the batch may have been
        appended, and the retry limit is reached or the server does not deduplicate batches; and
        the other subclasses of `ClientError`.
        """
        with about(self._target.url):
            return await self._send(data, close)

    async def _send(self, data: bytes, close: bool) -> Written:
        self._doubtful = False
        try:
            answer = await self._client.insist(lambda: self._attempt(data, close), again=passing)
        except (Broken, Rejected, Unreachable) as error:
            if not self._doubtful and not isinstance(error, Broken):
                raise
            raise OutcomeUnknown(f"{error.args[0]}; {_UNKNOWN}") from error
        done = written(answer)
        self._numbered = done.numbered or bool(self._numbered)
        if done.duplicate and data and not self._doubtful:
            raise Fenced(
                f"the server knows batch {self._seq} of producer {self.name!r}, epoch "
                f"{self.epoch}, already: it is another's, and this one was not appended"
            )
        self._seq += 1
        return done

    async def _attempt(self, data: bytes, close: bool) -> Answer:
        header = {
            "Producer-Id": self.name,
            "Producer-Epoch": str(self.epoch),
            "Producer-Seq": str(self._seq),
        }
        if data:
            header["Content-Type"] = self.content_type
        if close:
            header["Stream-Closed"] = "true"
        try:
            return await self._client.ask("POST", self._target.url, header, data)
        except Unreachable as error:
            self._doubt(error, error.sent)
            raise
        except Rejected as error:
            current = error.header.get("producer-epoch", "")
            if error.status == _FORBIDDEN and current.isascii() and current.isdigit():
                if self._may_claim and self._seq == 0 and not self._doubtful:
                    self._may_claim = False
                    self.epoch = int(current) + 1
                    return await self._attempt(data, close)
                taken = f"producer {self.name!r} was taken over: its epoch is {current} now"
                if self._doubtful:
                    raise OutcomeUnknown(f"{taken}; {_UNKNOWN}") from error
                raise Fenced(taken) from error
            self._doubt(error, not error.definite)
            raise

    def _doubt(self, error: Rejected | Unreachable, doubtful: bool) -> None:
        """Record that an attempt may have been carried out.

        Raises `OutcomeUnknown` if the server does not deduplicate batches, since a retry could
        append the batch twice.
        """
        if doubtful and self._numbered is False:
            raise OutcomeUnknown(
                f"{error.args[0]}; {_UNKNOWN}, and this server does not count a producer's batches"
            ) from error
        self._doubtful = self._doubtful or doubtful
