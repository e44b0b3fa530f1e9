"""Tests of `durable_streams_tw.http.http2.frames`."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from durable_streams_tw.http.http2 import frames as frames
from durable_streams_tw.http.http2.frames import Code, ConnectionFault, Frame, FrameReader


def read(data: bytes, size: int) -> list[Frame]:
    """Return all frames of bytes that arrive in pieces of this size."""
    reader = FrameReader()
    found = []
    for start in range(0, len(data), size):
        reader.feed(data[start : start + size])
        while (frame := reader.next()) is not None:
            found.append(frame)
    return found


class ReaderTests(SynchronousTestCase):
    """Parsing of frames."""

    def test_in_pieces(self) -> None:
        """Frames are the same in any pieces."""
        data = frames.PREFACE + b"".join(
            [
                frames.settings((frames.MAX_FRAME_SIZE, 20_000)),
                frames.ping_ack(b"12345678"),
                frames.head(5, frames.DATA, 1, 2**31 + 7) + b"hello",
                frames.head(0, 99, 0xFF, 0),
            ]
        )
        whole = read(data, len(data))
        self.assertEqual(
            [(frame.kind, frame.stream, frame.payload) for frame in whole],
            [
                (frames.SETTINGS, 0, b"\0\x05\0\0\x4e\x20"),
                (frames.PING, 0, b"12345678"),
                (frames.DATA, 7, b"hello"),
                (99, 0, b""),
            ],
        )
        for size in range(1, 30):
            self.assertEqual(read(data, size), whole)

    def test_preface(self) -> None:
        """Bytes that are not HTTP/2 are refused at the first wrong byte."""
        reader = FrameReader()
        reader.feed(b"PRI ")
        self.assertIsNone(reader.next())
        reader.feed(b"x")
        self.assertEqual(self.assertRaises(ConnectionFault, reader.next).code, Code.PROTOCOL_ERROR)

    def test_too_large(self) -> None:
        """A frame that is too large is refused by its first bytes."""
        reader = FrameReader()
        reader.feed(frames.PREFACE + frames.head(frames.MAX_FRAME + 1, frames.DATA, 0, 1))
        fault = self.assertRaises(ConnectionFault, reader.next)
        self.assertEqual(fault.code, Code.FRAME_SIZE_ERROR)

    def test_incomplete(self) -> None:
        """The reader reports what is incomplete."""
        reader = FrameReader()
        self.assertTrue(reader.in_preface)
        reader.feed(frames.PREFACE + frames.head(5, frames.DATA, 0, 3) + b"he")
        self.assertIsNone(reader.next())
        self.assertEqual((reader.in_preface, reader.in_data, reader.pending), (False, 3, 11))


class PayloadTests(SynchronousTestCase):
    """Parsing of payloads."""

    def test_padding(self) -> None:
        """Padding is removed; more padding than payload is an error."""
        padded = frames.PADDED
        self.assertEqual(frames.unpadded(Frame(0, padded, 1, b"\x02hello\0\0")), b"hello")
        self.assertEqual(frames.unpadded(Frame(0, padded, 1, b"\x02\0\0")), b"")
        self.assertEqual(frames.unpadded(Frame(0, 0, 1, b"\x02\0\0")), b"\x02\0\0")
        for payload in (b"", b"\x01", b"\x05abcd"):
            self.assertRaises(ConnectionFault, frames.unpadded, Frame(0, padded, 1, payload))

    def test_fragment(self) -> None:
        """Priorities precede the headers, and must depend on another stream."""
        flags = frames.PADDED | frames.WITH_PRIORITY
        frame = Frame(1, flags, 3, b"\x01\0\0\0\x01\xffblock\0")
        self.assertEqual(frames.fragment(frame), b"block")
        for payload in (b"\0\0\0\0\x03\xff", b"\0\0\0\0"):
            self.assertRaises(ConnectionFault, frames.fragment, Frame(1, flags, 3, payload))

    def test_settings(self) -> None:
        """Settings out of range raise errors of their own codes."""
        self.assertEqual(
            frames.read_settings(b"\0\x04\0\0\0\x01\0\x99\0\0\0\x02"), [(4, 1), (153, 2)]
        )
        for payload, code in (
            (b"\0\x04\0", Code.FRAME_SIZE_ERROR),
            (b"\0\x02\0\0\0\x02", Code.PROTOCOL_ERROR),
            (b"\0\x04\x80\0\0\0", Code.FLOW_CONTROL_ERROR),
            (b"\0\x05\0\0\0\x01", Code.PROTOCOL_ERROR),
        ):
            fault = self.assertRaises(ConnectionFault, frames.read_settings, payload)
            self.assertEqual(fault.code, code)

    def test_headers(self) -> None:
        """A field block above the frame size is split."""
        for size in (0, 1, frames.MAX_FRAME, frames.MAX_FRAME + 1, 3 * frames.MAX_FRAME + 5):
            block = bytes(size)
            found = read(frames.PREFACE + frames.headers(5, block, end=True), 10_000)
            self.assertEqual(b"".join([frame.payload for frame in found]), block)
            self.assertEqual(found[0].kind, frames.HEADERS)
            self.assertTrue(found[0].flags & frames.END_STREAM)
            ends = [bool(frame.flags & frames.END_HEADERS) for frame in found]
            self.assertEqual(ends, [False] * (len(found) - 1) + [True])
            self.assertEqual({frame.kind for frame in found[1:]} | {9}, {9})
