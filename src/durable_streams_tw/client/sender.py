"""Appends of one producer: numbered batches that a server accepts once (PROTOCOL.md §5.2.1)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Final
from uuid import uuid4

from durable_streams_tw.client.errors import (
    BadResponse,
    ClientError,
    Fenced,
    InvalidArgument,
    OutcomeUnknown,
    Rejected,
    SequenceConflict,
    Unreachable,
    about,
)
from durable_streams_tw.client.requests import Endpoint
from durable_streams_tw.client.transport import Answer
from durable_streams_tw.client.values import Written, is_deduplicated, written
from durable_streams_tw.protocol.limits import MAX_SAFE_INTEGER, MAX_TOKEN

_UNKNOWN: Final = "the data may or may not have been appended"


class BatchSender:
    """Sender of the batches of one producer.

    Without a ``name``, the producer gets a random name and epoch 0. With a name, its epoch is
    ``epoch``, by default the current time in ms since the Unix epoch. ``claim`` permits to claim
    the next epoch if the first batch is refused because the epoch is stale, by default if no epoch
    is given. ``wall`` returns the time in seconds since the Unix epoch. Raises `InvalidArgument`
    if the name or epoch is not valid.
    """

    def __init__(
        self,
        wall: Callable[[], float],
        name: str | None = None,
        epoch: int | None = None,
        claim: bool | None = None,
    ) -> None:
        self.claims = (epoch is None and name is not None) if claim is None else claim
        if epoch is None:
            epoch = 0 if name is None else int(wall() * 1000)
        if name is None:
            name = str(uuid4())
        if not (
            name and name.isprintable() and name == name.strip() and len(name.encode()) <= MAX_TOKEN
        ):
            raise InvalidArgument(
                "name", f"must be printable text of 1 to {MAX_TOKEN} bytes, not {name!r}"
            )
        if not 0 <= epoch <= MAX_SAFE_INTEGER:
            raise InvalidArgument("epoch", f"must be from 0 to 2**53 - 1, not {epoch}")
        self.name = name
        self.epoch = epoch
        # False if the server ignores the numbers, None before the first response.
        self._deduplicates: bool | None = None

    async def send(
        self,
        endpoint: Endpoint,
        seq: int,
        data: bytes,
        header: Mapping[str, str],
        previous: Callable[[], Awaitable[None]] | None = None,
    ) -> Written:
        """Append batch ``seq``; retry until its outcome is known or a retry limit is reached.

        If the server misses an earlier batch, wait for ``previous()`` before the next attempt.
        Raises `Fenced` if another producer of this name has taken over or used the number,
        `OutcomeUnknown` if the batch may have been appended, and other subclasses of `ClientError`
        if it was not.
        """
        attempt = _Attempt(self, endpoint, seq, data, header, previous)
        with about(endpoint.target.url):
            try:
                answer = await endpoint.insist(attempt.send)
            except (BadResponse, Rejected, Unreachable) as error:
                if attempt.doubtful or isinstance(error, BadResponse):
                    raise _unknown(str(error.args[0]), error) from error
                raise
            result = written(answer)
            # The epoch is known now: a later refusal means that another producer has taken over.
            self.claims = False
            self._deduplicates = is_deduplicated(answer) or bool(self._deduplicates)
            if result.duplicate and data and not attempt.doubtful:
                raise Fenced(
                    f"batch {seq} was not appended: another process has sent one with this number "
                    f"as producer {self.name!r}, epoch {self.epoch}"
                )
            return result

    def claim(self, current: int) -> bool:
        """Claim the epoch after the server's current one; return False if it is not permitted."""
        if not self.claims:
            return False
        self.claims = False
        self.epoch = current + 1
        return True

    @property
    def is_sure(self) -> bool:
        """True if a batch may be sent twice: the server is not known to ignore the numbers."""
        return self._deduplicates is not False


class _Attempt:
    """Attempts to send one batch.

    ``doubtful`` is true if one of them may have been carried out without a response.
    """

    def __init__(
        self,
        sender: BatchSender,
        endpoint: Endpoint,
        seq: int,
        data: bytes,
        header: Mapping[str, str],
        previous: Callable[[], Awaitable[None]] | None,
    ) -> None:
        self._sender = sender
        self._endpoint = endpoint
        self._seq = seq
        self._data = data
        self._header = header
        self._previous = previous
        self.doubtful = False

    async def send(self) -> Answer:
        """Send the batch once, or again after a claim or a gap."""
        sender = self._sender
        numbers = {
            "Producer-Id": sender.name,
            "Producer-Epoch": str(sender.epoch),
            "Producer-Seq": str(self._seq),
        }
        try:
            return await self._endpoint.ask("POST", {**self._header, **numbers}, self._data)
        except Unreachable as error:
            self._doubt(error, error.sent)
            raise
        except SequenceConflict as error:
            expected = _number(error, "producer-expected-seq")
            previous, self._previous = self._previous, None
            if previous is None or expected is None or expected >= self._seq:
                raise
            await previous()
            return await self.send()
        except Rejected as error:
            current = _number(error, "producer-epoch") if error.status == 403 else None
            if current is None:
                self._doubt(error, not error.definite)
                raise
            if self._seq == 0 and not self.doubtful and sender.claim(current):
                return await self.send()
            taken = f"producer {sender.name!r} was fenced by epoch {current}"
            if self.doubtful:
                raise _unknown(taken, error) from error
            raise _caused(Fenced(taken), error) from error

    def _doubt(self, error: Rejected | Unreachable, doubtful: bool) -> None:
        """Record that an attempt may have been carried out.

        Raises `OutcomeUnknown` if the server ignores the numbers, since a retry could append the
        batch twice.
        """
        if doubtful and not self._sender.is_sure:
            raise _unknown(
                f"{error.args[0]}; the server ignores producer headers", error
            ) from error
        self.doubtful = self.doubtful or doubtful


async def append_unnumbered(endpoint: Endpoint, data: bytes, header: Mapping[str, str]) -> Written:
    """Append without a producer. A failed request is retried only if it had certainly no effect.

    Raises `OutcomeUnknown` if the response was lost or may be that of a proxy.
    """
    unsure = False

    async def attempt() -> Answer:
        nonlocal unsure
        try:
            return await endpoint.ask("POST", header, data)
        except (Rejected, Unreachable) as error:
            definite = error.definite if isinstance(error, Rejected) else not error.sent
            unsure = not definite
            raise

    with about(endpoint.target.url):
        try:
            return written(await endpoint.insist(attempt, lambda _: not unsure))
        except (BadResponse, Rejected, Unreachable) as error:
            if unsure or isinstance(error, BadResponse):
                raise _unknown(str(error.args[0]), error) from error
            raise


def _number(error: Rejected, name: str) -> int | None:
    text = error.header.get(name, "")
    return int(text) if text.isascii() and text.isdigit() else None


def _unknown(reason: str, error: ClientError) -> ClientError:
    return _caused(OutcomeUnknown(f"{reason}; {_UNKNOWN}"), error)


def _caused(raised: ClientError, error: ClientError) -> ClientError:
    raised.status, raised.problem = error.status, error.problem
    return raised
