"""Suite: offsets of one incarnation of a stream are refused by others."""

from __future__ import annotations

from durable_streams_tw.protocol.errors import Problem
from durable_streams_tw.protocol.streams import bodies
from durable_streams_tw.protocol.streams.commands import Create, ForkRequest
from durable_streams_tw.protocol.streams.offsets import (
    Offset,
    RequestedOffset,
    format_offset,
    parse_offset,
)
from durable_streams_tw.protocol.streams.outcomes import Created
from durable_streams_tw.protocol.streams.state import NO_EXPIRY, Lifetime, StreamState
from tests.storage.store_case import StoreCase, post, put


def offset(state: StreamState, position: int | None = None) -> RequestedOffset:
    """Return the offset of a position of a stream, or of its tail."""
    return parse_offset(format_offset(state, state.tail if position is None else position))


def fork(path: str, source: str, at: RequestedOffset | None, raw: bytes = b"") -> Create:
    """Return a PUT of a fork."""
    body = bodies.initial("text/plain", raw)
    return Create(path, "text/plain", NO_EXPIRY, False, body, ForkRequest(source, at))


class IncarnationSuite(StoreCase):
    """Deleted, expired and forked streams."""

    def assertReads(self, path: str, asked: RequestedOffset, data: bytes) -> None:
        """Assert that a read from an offset returns bytes."""
        chunk = self.result(self.store.read(path, asked, 100))
        self.assertEqual(getattr(chunk, "data", chunk), data)

    def assertOffsetGone(self, path: str, asked: RequestedOffset) -> None:
        """Assert that an offset is refused as one of another incarnation."""
        self.assertRefused(Problem.OFFSET_GONE, self.result(self.store.read(path, asked, 100)))

    def test_deleted_and_created_again(self) -> None:
        """A reader of a deleted stream gets no bytes of its successor."""
        first = self.created(put(raw=b"first"))
        self.assertReads("a", offset(first, 2), b"rst")
        self.deleted()
        self.created(put(raw=b"a second stream"))
        for position in (0, 2, 5):
            self.assertOffsetGone("a", offset(first, position))
        self.restart()
        self.assertOffsetGone("a", offset(first))

    def test_expired_and_created_again(self) -> None:
        """A reader of an expired stream gets no bytes of its successor, also after a restart."""
        first = self.created(put(raw=b"first", lifetime=Lifetime(ttl=5)))
        self.sleep(6)
        self.restart()
        self.created(put(raw=b"a second stream"))
        self.assertOffsetGone("a", offset(first))

    def test_zero_names_no_incarnation(self) -> None:
        """Offsets of earlier versions, without incarnation, are positions."""
        self.created(put(raw=b"0123"))
        for token, data in (("0_0", b"0123"), (format_offset(None, 2), b"23"), ("-1", b"0123")):
            self.assertReads("a", parse_offset(token), data)

    def test_offsets_outlive_restarts(self) -> None:
        """Appends of a later process have another incarnation; all offsets stay valid."""
        states = [self.created(put(raw=b"0"))]
        for _ in range(3):
            self.restart()
            states.append(self.appended(post(b"1")))
            states.append(self.appended(post(b"2")))
        tokens = [format_offset(state, state.tail) for state in states]
        self.assertEqual(tokens, sorted(set(tokens)))
        for token, state in zip(tokens, states, strict=True):
            self.assertEqual(token, format_offset(states[-1], state.tail))
            self.assertReads("a", parse_offset(token), b"0121212"[state.tail :])

    def test_forks(self) -> None:
        """A fork accepts offsets of its source up to the fork point; after it each has its own."""
        source = self.created(put(raw=b"0123456789"))
        made = self.created(fork("b", "a", offset(source, 6), b"abcdef"))
        for position in range(7):
            self.assertEqual(format_offset(made, position), format_offset(source, position))
        self.assertReads("b", offset(source, 6), b"abcdef")
        self.assertReads("a", offset(made, 6), b"6789")
        self.assertOffsetGone("b", offset(source, 7))
        self.assertOffsetGone("a", offset(made, 7))
        inner = self.created(fork("c", "b", offset(made, 8), b"x"))
        self.restart()
        for position, data in ((3, b"345abx"), (6, b"abx"), (8, b"x")):
            self.assertReads("c", offset(inner, position), data)
            self.assertReads("c", offset(made, position), data)
        self.assertOffsetGone("c", offset(made, 9))

    def test_fork_requests(self) -> None:
        """The offset of a fork must belong to the current source."""
        first = self.created(put(raw=b"0123456789"))
        self.deleted()
        source = self.created(put(raw=b"abcdefgh"))
        self.assertRefused(Problem.OFFSET_GONE, self.submit(fork("b", "a", offset(first, 6))))
        self.assertRefused(Problem.INVALID_FORK, self.submit(fork("b", "a", offset(first, 9))))
        self.created(fork("b", "a", offset(source, 6)))
        for asked in (offset(source, 6), 6):
            again = self.submit(fork("b", "a", asked))
            assert isinstance(again, Created) and not again.fresh, again
        other = self.submit(fork("b", "a", offset(first, 6)))
        self.assertRefused(Problem.STREAM_EXISTS, other)

    def test_an_older_copy(self) -> None:
        """An offset after the tail, given by a newer copy of the store, is refused."""
        state = self.created(put(raw=b"0123"))
        self.assertOffsetGone("a", Offset(state.id, 5))
