"""Cases of Expect, other protocols, sizes, and the end of connections."""

from __future__ import annotations

from durable_streams_tw.http.limits import MAX_FIELDS, MAX_HEAD
from tests.http.malformed.builders import (
    GET,
    HIDDEN,
    HOST,
    Rows,
    chunked,
    get,
    post,
    printable,
    sized,
)

ROWS = Rows()
good = ROWS.good
last = ROWS.last
bad = ROWS.bad
refused = ROWS.refused
unfinished = ROWS.unfinished

# -- expectations -------------------------------------------------------------------------------

good(
    "a wait for a word, and the body with it",
    post(b"Expect: 100-continue", b"Content-Length: 2", body=b"hi"),
)
good(
    "a wait for a word in capitals", post(b"Expect: 100-Continue", b"Content-Length: 2", body=b"hi")
)
good("a wait for a word, and no body", post(b"Expect: 100-continue"))
good(
    "a wait for a word, and chunks",
    post(b"Expect: 100-continue", b"Transfer-Encoding: chunked", body=b"0\r\n\r\n"),
)
for expectation in (
    b"200-ok",
    b"",
    b"100",
    b"100-continue, 100-continue",
    b"100-continue; x",
    b"continue",
):
    bad(
        f"the expectation {printable(expectation)}",
        post(b"Expect: " + expectation, b"Content-Length: 2", body=b"hi"),
        417,
    )
bad(
    "two expectations",
    post(b"Expect: 100-continue", b"Expect: x", b"Content-Length: 2", body=b"hi"),
    417,
)

# -- other protocols ----------------------------------------------------------------------------

bad("CONNECT", b"CONNECT a:80 HTTP/1.1\r\n" + HOST + b"\r\n")
bad(
    "CONNECT, and a body",
    b"CONNECT a:80 HTTP/1.1\r\n" + HOST + b"Content-Length: 44\r\n\r\n" + HIDDEN,
)
bad("CONNECT to a path", b"CONNECT /v1/stream/s HTTP/1.1\r\n" + HOST + b"\r\n" + HIDDEN)
good("an Upgrade", get(b"Connection: upgrade", b"Upgrade: websocket"))
good(
    "an Upgrade to h2c",
    get(b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c", b"HTTP2-Settings: AAMAAABk"),
)
good(
    "an Upgrade to h2c with a body",
    post(
        b"Connection: Upgrade, HTTP2-Settings",
        b"Upgrade: h2c",
        b"HTTP2-Settings: AAMAAABk",
        b"Content-Length: 2",
        body=b"hi",
    ),
)
good("an Upgrade, then a request", get(b"Connection: upgrade", b"Upgrade: websocket") + get(), 2)
for upgrade in (b"websocket", b"TLS/1.0", b"h2c, websocket", b"HTTP/2.0", b""):
    bad(
        f"an Upgrade to {printable(upgrade)} with a body",
        post(b"Connection: upgrade", b"Upgrade: " + upgrade, b"Content-Length: 44", body=HIDDEN),
    )
bad(
    "an Upgrade with chunks",
    post(
        b"Connection: upgrade",
        b"Upgrade: websocket",
        b"Transfer-Encoding: chunked",
        body=b"0\r\n\r\n",
    ),
)

# -- sizes --------------------------------------------------------------------------------------

bad(
    "a target that is too long",
    b"GET /v1/stream/" + b"a" * MAX_HEAD + b" HTTP/1.1\r\n" + HOST + b"\r\n",
    414,
)
bad("a target without end", b"GET /" + b"a" * 2 * MAX_HEAD, 414)
bad("a method without end", b"G" * 2 * MAX_HEAD, 414)
bad("a field that is too long", get(b"X: " + b"y" * MAX_HEAD), 431)
bad("a field without end", GET + b"X: " + b"y" * 2 * MAX_HEAD, 431)
bad("a name without end", GET + b"X" * 2 * MAX_HEAD, 431)
bad("fields without end", GET + b"X: y\r\n" * 4_000, 431)
bad("one field too many", get(*[b"X%d: y" % number for number in range(MAX_FIELDS)]), 431)
bad(
    "fields that are too long together",
    get(*[b"X%d: %b" % (number, b"y" * 1000) for number in range(20)]),
    431,
)
bad(
    "a head that is too long behind a request",
    sized() + GET + b"X: " + b"y" * MAX_HEAD,
    431,
    before=1,
)
_PAD = MAX_HEAD - len(get(b"X: "))
good("a head as long as allowed", get(b"X: " + b"y" * _PAD))
bad("a head one byte too long", get(b"X: " + b"y" * (_PAD + 1)), 431)

# -- the end of the connection ------------------------------------------------------------------

last("Connection: close", get(b"Connection: close"))
last("Connection: close in a list", get(b"Connection: x, Close , y"))
last("Connection: close in the second field", get(b"Connection: x", b"Connection: close"))
last("close and keep-alive", get(b"Connection: keep-alive, close"))
last("close, then a request", get(b"Connection: close") + HIDDEN)
last(
    "close behind a body, then a request",
    post(b"Connection: close", b"Content-Length: 2", body=b"hi") + HIDDEN,
)
last("close behind chunks, then a request", chunked(b"0\r\n\r\n", b"Connection: close") + HIDDEN)
good("Connection: keep-alive", get(b"Connection: keep-alive"))
good("an odd Connection", get(b"Connection: closed, close-not"))
OLD = b"GET /v1/stream/s HTTP/1.0\r\n"
last("HTTP/1.0", OLD + HOST + b"\r\n")
last("HTTP/1.0 without a Host", OLD + b"\r\n")
last("HTTP/1.0, then a request", OLD + HOST + b"\r\n" + HIDDEN)
good("HTTP/1.0 that is kept", OLD + HOST + b"Connection: keep-alive\r\n\r\n")
last("HTTP/1.0 that is kept and closed", OLD + HOST + b"Connection: keep-alive, close\r\n\r\n")
last("HTTP/1.0 with a body", b"POST /v1/stream/s HTTP/1.0\r\nContent-Length: 2\r\n\r\nhi")
good(
    "HTTP/1.0 that is kept, then HTTP/1.1",
    OLD + b"Connection: keep-alive\r\n\r\n" + get(),
    2,
    tree=1,
    h11=1,
    because="neither twisted.web nor h11 keeps a connection of HTTP/1.0",
)
last(
    "HTTP/1.0 that waits for a word",
    b"POST /v1/stream/s HTTP/1.0\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\nhi",
)
bad("two Hosts in HTTP/1.0", OLD + HOST + HOST + b"\r\n")

# -- fields that have one value -----------------------------------------------------------------

for name, one, other in (
    (b"Content-Type", b"text/plain; a=b", b"application/json"),
    (b"Stream-Seq", b"1", b"2"),
    (b"Stream-Closed", b"true", b"true"),
    (b"Stream-TTL", b"1", b"2"),
    (b"Stream-Expires-At", b"2030-01-01T00:00:00Z", b"2031-01-01T00:00:00Z"),
    (b"Stream-Forked-From", b"/v1/stream/a", b"/v1/stream/b"),
    (b"Stream-Fork-Offset", b"-1", b"-1"),
    (b"Stream-Fork-Sub-Offset", b"0", b"0"),
    (b"Producer-Id", b"a", b"b"),
    (b"Producer-Epoch", b"0", b"1"),
    (b"Producer-Seq", b"0", b"1"),
    (b"Authorization", b"Bearer a", b"Bearer b"),
    (b"Origin", b"https://a", b"https://b"),
):
    fields = (name + b": " + one, name.upper() + b": " + other)
    refused(f"{name.decode()} twice", post(*fields, b"Content-Length: 2", body=b"hi"))

# -- open ends ----------------------------------------------------------------------------------

for end in (1, 3, 4, 20, 26, 27, 28, 34, 35, 36):
    unfinished(f"the first {end} bytes of a request", get()[:end])
    unfinished(f"{end} bytes behind a request", sized() + get()[:end], before=1)
unfinished("an empty line alone", b"\r\n")
unfinished("half an empty line", b"\r")
unfinished("nothing at all", b"")
