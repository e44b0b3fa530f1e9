"""An idempotent producer: batches that are appended once, however often they are sent
(PROTOCOL.md §5.2.1)."""

from __future__ import annotations

from typing import Final
from uuid import uuid4

from durable_streams_tw.client.errors import Fenced, OutcomeUnknown, Rejected, Unreachable
from durable_streams_tw.client.streams import StreamClient, Written, passing, written
from durable_streams_tw.client.targets import Target
from durable_streams_tw.client.wire import Answer

_FORBIDDEN: Final = 403
_TOO_MANY: Final = 429


class Producer:
    """Appends to one stream, batch after batch: one at a time.

    Without a ``name`` it is a new one, with a random name. With one it takes over from whoever
    had the name before: its epoch is the time of its start in milliseconds, unless ``epoch``
    says another. It goes on trying for as long as the client endures failures.
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
        self._client = client
        self._target = target
        self.content_type = content_type
        self._may_claim = epoch is None
        if epoch is None:
            epoch = 0 if name is None else int(client.wire.wall() * 1000)
        self.name = name or str(uuid4())
        self.epoch = epoch
        self._seq = 0
        # Whether an answer to the batch at hand was lost.
        self._doubtful = False
        self._numbered: bool | None = None

    async def send(self, data: bytes = b"", *, close: bool = False) -> Written:
        """Append a batch, and perhaps close the stream with it; with no bytes, only close it.

        Raises `Fenced` where another producer of this name is in the way, `OutcomeUnknown`
        where a server that does not count batches leaves one in doubt, and all that the
        client raises.
        """
        self._doubtful = False
        answer = await self._client.insist(lambda: self._attempt(data, close), again=self._again)
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
            if error.sent and self._numbered is False:
                raise OutcomeUnknown(
                    f"{error}, and this server does not count a producer's batches: nothing "
                    "tells whether this one was appended"
                ) from error
            self._doubtful = self._doubtful or error.sent
            raise
        except Rejected as error:
            current = error.header.get("producer-epoch", "")
            if error.status == _FORBIDDEN and current.isascii() and current.isdigit():
                if self._may_claim and self._seq == 0 and not self._doubtful:
                    self._may_claim = False
                    self.epoch = int(current) + 1
                    return await self._attempt(data, close)
                raise Fenced(
                    f"producer {self.name!r} was taken over: its epoch is {current} now"
                ) from error
            # What was turned away (429) was not carried out; of all else nobody can be sure.
            self._doubtful = self._doubtful or (error.passing and error.status != _TOO_MANY)
            raise

    def _again(self, error: Rejected | Unreachable) -> bool:
        return passing(error)
