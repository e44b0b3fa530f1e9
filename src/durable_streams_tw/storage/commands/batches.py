"""Batches of stores that commit: results, failed commands, joining of divided batches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from msgspec import Struct
from twisted.logger import Logger

from durable_streams_tw.protocol.errors import Problem, Refusal
from durable_streams_tw.protocol.streams.state import StreamState
from durable_streams_tw.protocol.subscriptions.commands import LinkStreams, Subscribe
from durable_streams_tw.storage.api import Change, Command, Outcome, RecordChange
from durable_streams_tw.storage.errors import CorruptRecord

CORRUPT: Final = Refusal(
    Problem.CORRUPT_RECORD, "stored bytes of this stream failed their checksum"
)
BUG: Final = Refusal(Problem.INTERNAL, "the server failed; nothing was written")

_SPARED: Final = 16

_log: Final = Logger()


class BatchResult(Struct, frozen=True):
    """Result of a batch.

    ``outcomes`` contains the outcomes of the commands in order, without those in ``waiting`` and
    those that BATCH_TIME left over. ``waiting`` contains the indexes of commands that the caller
    has to pass again, before all later ones, because a fan-out or a staged body has to be finished
    first. ``changes`` and ``notes`` are for listeners and ``published`` is for readers; ``version``
    is the number of the commit, 0 if nothing was committed. ``more`` requests another sweep
    immediately. ``failed`` means that nothing was written or that the outcome is unknown. In the
    latter case ``doubt`` is a version: what snapshots up to it showed may not be on the disk.
    ``seconds`` is the duration of the commit.
    """

    outcomes: list[Outcome]
    changes: list[Change]
    published: dict[str, StreamState | None]
    version: int
    more: bool = False
    failed: bool = False
    doubt: int | None = None
    notes: Sequence[RecordChange] = ()
    seconds: float = 0.0
    waiting: Sequence[int] = ()

    @property
    def taken(self) -> int:
        """Number of commands that were carried out or that wait."""
        return len(self.outcomes) + len(self.waiting)

    def followed_by(self, second: BatchResult, before: int) -> BatchResult:
        """Return the result of this half of a batch, of ``before`` commands, and the second."""
        return BatchResult(
            self.outcomes + second.outcomes,
            self.changes + second.changes,
            {**self.published, **second.published},
            max(self.version, second.version),
            failed=self.failed or second.failed,
            doubt=self.doubt if second.doubt is None else second.doubt,
            notes=[*self.notes, *second.notes],
            seconds=self.seconds + second.seconds,
            waiting=[*self.waiting, *[before + index for index in second.waiting]],
            more=self.more or second.more,
        )


class SparedCommands(dict[int, Refusal]):
    """Refusals of commands without which a batch starts over, by index.

    A command that raises after it has written would leave half of its changes in the batch.
    """

    @property
    def too_many(self) -> bool:
        """True if the batch has to be divided: each failed command starts the whole batch over."""
        return len(self) > _SPARED

    def failed(self, index: int, error: Exception, wrote: bool) -> Refusal | None:
        """Return the refusal of a command that raised, None if the batch has to start over.

        Call it in the handler of the exception. ``wrote`` means that the command has written.
        """
        if isinstance(error, CorruptRecord):
            _log.error("{corrupt}", corrupt=error)
            refusal = CORRUPT
        else:
            _log.failure("A command failed")
            refusal, wrote = BUG, True
        if wrote:
            self[index] = refusal
        return None if wrote else refusal


def grows(command: Command) -> bool:
    """Return whether a command is refused without being carried out if the disk is full.

    Commands on streams are carried out: a duplicate, or the creation of an existing stream, needs
    no space.
    """
    return isinstance(command, Subscribe | LinkStreams)
