"""Cases of ambiguous bodies: lengths, codings, chunks, trailers."""

from __future__ import annotations

from durable_streams_tw.http.limits import MAX_CHUNK_LINE, MAX_FIELDS, MAX_HEAD
from tests.http.malformed.builders import CHUNKED, HIDDEN, HOST, Rows, chunked, get, post, printable
from tests.http.malformed.servers import MAX_BODY

ROWS = Rows()
good = ROWS.good
bad = ROWS.bad
unfinished = ROWS.unfinished

# -- Content-Length -----------------------------------------------------------------------------

for length in (
    b"",
    b"-1",
    b"-0",
    b"+5",
    b"5.0",
    b"5e0",
    b"0x5",
    b"5 5",
    b"5,5",
    b"5, 5",
    b"5;",
    b"five",
    b"\xb2",
    b"5\xa0",
    b"1_0",
    b"'5'",
    b"0b1",
    b"5L",
    b"NaN",
    b",5",
    b"5,",
):
    bad(f"the length {printable(length)}", post(b"Content-Length: " + length, body=b"hello"))
bad("two lengths", post(b"Content-Length: 5", b"Content-Length: 6", body=b"hello" + HIDDEN))
bad("the same length twice", post(b"Content-Length: 5", b"Content-Length: 5", body=b"hello"))
bad(
    "the same length twice, once in capitals",
    post(b"Content-Length: 5", b"CONTENT-LENGTH: 5", body=b"hello"),
)
bad("a length of 0 and another", post(b"Content-Length: 0", b"Content-Length: 44", body=HIDDEN))
bad(
    "two lengths behind another pair",
    post(b"Origin: a", b"Origin: a", b"Content-Length: 5", b"Content-Length: 5", body=b"hello"),
)
bad("two lengths in a GET", get(b"Content-Length: 0", b"Content-Length: 5"))
bad(
    "a length one above the limit",
    post(b"Content-Length: %d" % (MAX_BODY + 1), body=b"x" * (MAX_BODY + 1)),
    413,
)
for number in (2**31, 2**32, 2**32 + 5, 2**63, 2**64, 2**64 + 5, 10**30):
    bad(f"the length {number}", post(b"Content-Length: %d" % number, body=b"hello"), 413)
bad("a length of a thousand digits", post(b"Content-Length: " + b"9" * 1000, body=b"hello"), 413)
bad("a length above the limit for a GET", get(b"Content-Length: 5000"), 413)
bad(
    "a length above the limit, and a wait for a word",
    post(b"Content-Length: 5000", b"Expect: 100-continue"),
    413,
)
unfinished("a body that is short", post(b"Content-Length: 5", body=b"hell"))
unfinished("a body that does not come", post(b"Content-Length: 5"))
bad(
    "a body that is longer than its length",
    post(b"Content-Length: 5", body=b"hello!\r\n\r\n"),
    before=1,
)
bad("a body without a length", post(body=b"hello\r\n\r\n"), before=1)

# -- Transfer-Encoding --------------------------------------------------------------------------

for coding in (
    b"gzip",
    b"gzip, chunked",
    b"chunked, gzip",
    b"chunked, chunked",
    b"chunked,",
    b", chunked",
    b"identity",
    b"identity, chunked",
    b"chunked, identity",
    b"deflate, chunked",
    b"compress",
    b"",
    b"chunked;q=1",
    b"chunked foo",
    b"chunked\x80",
    b"chunke",
    b"xchunked",
    b"chunkedd",
    b"'chunked'",
    b'"chunked"',
    b"chunked chunked",
    b"c hunked",
    b"none",
    b"\xc3\xa7hunked",
):
    bad(
        f"the coding {printable(coding)}",
        post(b"Transfer-Encoding: " + coding, body=b"0\r\n\r\n"),
        501,
    )
bad(
    "two codings",
    post(b"Transfer-Encoding: gzip", b"Transfer-Encoding: chunked", body=b"0\r\n\r\n"),
    501,
)
bad(
    "chunked twice",
    post(b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked", body=b"0\r\n\r\n"),
    501,
)
bad(
    "chunked, then identity",
    post(b"Transfer-Encoding: chunked", b"Transfer-Encoding: identity", body=b"0\r\n\r\n"),
    501,
)
bad(
    "chunked, then cow",
    post(b"Transfer-Encoding: chunked", b"Transfer-encoding: cow", body=b"5c\r\n" + HIDDEN),
    501,
)
bad("the coding \\x0bchunked", post(b"Transfer-Encoding: \x0bchunked", body=b"0\r\n\r\n"))
bad("the coding \\x00chunked", post(b"Transfer-Encoding: \x00chunked", body=b"0\r\n\r\n"))
bad("a coding in HTTP/1.0", b"POST /v1/stream/s HTTP/1.0\r\n" + HOST + CHUNKED + b"\r\n0\r\n\r\n")
bad(
    "another coding in HTTP/1.0",
    b"POST /v1/stream/s HTTP/1.0\r\n" + HOST + b"Transfer-Encoding: gzip\r\n\r\n",
)
bad(
    "a coding and a length in HTTP/1.0",
    b"POST /v1/stream/s HTTP/1.0\r\n" + HOST + CHUNKED + b"Content-Length: 5\r\n\r\n0\r\n\r\n",
)
for pair in (
    (b"Content-Length: 5", b"Transfer-Encoding: chunked"),
    (b"Transfer-Encoding: chunked", b"Content-Length: 5"),
    (b"content-length: 5", b"TRANSFER-ENCODING: Chunked"),
    (b"Content-Length: 0", b"Transfer-Encoding: chunked"),
    (b"Content-Length: 5", b"Transfer-Encoding: gzip"),
    (b"Content-Length: 5", b"Transfer-Encoding: identity"),
    (b"Content-Length: 5", b"Transfer-Encoding:"),
    (b"Content-Length: x", b"Transfer-Encoding: chunked"),
):
    bad(
        f"a length and a coding: {printable(b', '.join(pair))}",
        post(*pair, body=b"0\r\n\r\n" + HIDDEN),
    )
bad(
    "chunks that hide a request behind a length",
    post(
        b"Content-Length: 4",
        b"Transfer-Encoding: chunked",
        body=b"5c\r\n" + HIDDEN + b"\r\n0\r\n\r\n",
    ),
)
good(
    "a field that looks like a coding",
    post(b"X-Transfer-Encoding: chunked", b"Content-Length: 2", body=b"hi"),
)
good(
    "a field that looks like a length",
    post(b"Content_Length: 99", b"Content-Length: 2", body=b"hi"),
)
good("a TE field is no coding", get(b"TE: trailers, chunked"))

# -- chunks -------------------------------------------------------------------------------------

for size in (
    b"",
    b" ",
    b"x",
    b"g",
    b"-1",
    b"+5",
    b" 5",
    b"5 ",
    b"\t5",
    b"5\t",
    b"0x5",
    b"5h",
    b"5,",
    b"5:a",
    b"5 ;a",
    b"5 a",
    b"5_0",
    b"\xb2",
    b"00000000000000005",
    b"'5'",
    b"5\x00",
    b"5;\x00",
    b"5;a=\x7f",
    b"5;a\rb",
):
    bad(f"the size {printable(size)}", chunked(size + b"\r\nhello\r\n0\r\n\r\n"))
    bad(
        f"the size {printable(size)} of the second chunk",
        chunked(b"1\r\na\r\n" + size + b"\r\nhello\r\n0\r\n\r\n"),
    )
for size in (
    b"7fffffff",
    b"80000000",
    b"ffffffff",
    b"100000005",
    b"7fffffffffffffff",
    b"ffffffffffffffff",
):
    bad(f"the size {printable(size)}", chunked(size + b"\r\nhello\r\n0\r\n\r\n"), 413)
bad("a size of seventeen digits", chunked(b"10000000000000005\r\nhello\r\n0\r\n\r\n"))
bad("LF behind a size", chunked(b"5\nhello\r\n0\r\n\r\n"))
bad("CR behind a size", chunked(b"5\rhello\r\n0\r\n\r\n"))
bad("LF behind a chunk", chunked(b"5\r\nhello\n0\r\n\r\n"))
bad("CR behind a chunk", chunked(b"5\r\nhello\r0\r\n\r\n"))
bad("nothing behind a chunk", chunked(b"5\r\nhello0\r\n\r\n"))
bad("LF CR behind a chunk", chunked(b"5\r\nhello\n\r0\r\n\r\n"))
bad("two line ends behind a chunk", chunked(b"5\r\nhello\r\n\r\n0\r\n\r\n"))
bad("a chunk that is longer than its size", chunked(b"5\r\nhello!\r\n0\r\n\r\n"))
bad("a chunk that is shorter than its size", chunked(b"6\r\nhello\r\n0\r\n\r\n"))
bad("LF behind the last chunk", chunked(b"0\n\r\n"))
bad("LF for the last empty line", chunked(b"0\r\n\n"))
bad(
    "LF in an extension, and a hidden request", chunked(b"2;\nxx\r\n" + b"4c\r\n0\r\n\r\n" + HIDDEN)
)
bad(
    "an extension that is too long",
    chunked(b"5;" + b"a" * MAX_CHUNK_LINE + b"\r\nhello\r\n0\r\n\r\n"),
)
bad(
    "chunks beyond the limit",
    chunked(b"3e8\r\n" + b"x" * MAX_BODY + b"\r\n1\r\nx\r\n0\r\n\r\n"),
    413,
)
bad("many chunks beyond the limit", chunked(b"1\r\nx\r\n" * (MAX_BODY + 1)), 413)
bad(
    "one chunk beyond the limit",
    chunked(b"3e9\r\n" + b"x" * (MAX_BODY + 1) + b"\r\n0\r\n\r\n"),
    413,
)
unfinished("chunks without a last one", chunked(b"5\r\nhello\r\n"))
unfinished("a last chunk without the empty line", chunked(b"5\r\nhello\r\n0\r\n"))
unfinished("half a chunk", chunked(b"5\r\nhel"))
unfinished("half a size", chunked(b"5"))
unfinished("chunks that have not begun", chunked(b""))
bad("a request in place of a chunk", chunked(HIDDEN))
bad("bytes behind the last chunk", chunked(b"0\r\n\r\nhello\r\n\r\n"), before=1)

# -- trailers -----------------------------------------------------------------------------------

for trailer in (
    b"X",
    b": y",
    b"X : y",
    b" X: y",
    b"X: y\x00",
    b"X: y\rz",
    b"X\x80: y",
    b"GET / HTTP/1.1",
):
    bad(f"the trailer {printable(trailer)}", chunked(b"0\r\n" + trailer + b"\r\n\r\n"))
bad("a folded trailer", chunked(b"0\r\nX: y\r\n z\r\n\r\n"))
bad("LF behind a trailer", chunked(b"0\r\nX: y\n\r\n"))
bad("trailers without end", chunked(b"0\r\n" + b"X: y\r\n" * (MAX_FIELDS + 1)), 431)
bad("a trailer that is too long", chunked(b"0\r\nX: " + b"y" * MAX_HEAD), 431)
bad(
    "trailers that are too long together",
    chunked(b"0\r\n" + (b"X: " + b"y" * 1000 + b"\r\n") * 17),
    431,
)
for trailer in (b"Content-Length: 50", b"TRANSFER-ENCODING: gzip"):
    bad(f"the trailer {printable(trailer)}", chunked(b"0\r\n" + trailer + b"\r\n\r\n"))
