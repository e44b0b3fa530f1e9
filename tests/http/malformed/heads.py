"""Cases of malformed heads, and of valid heads that look malformed."""

from __future__ import annotations

from typing import Any

from durable_streams_tw.http.limits import MAX_FIELDS
from tests.http.malformed.builders import (
    CHUNKED,
    GET,
    HIDDEN,
    HOST,
    LINE,
    Rows,
    chunked,
    get,
    post,
    printable,
    sized,
)
from tests.http.malformed.servers import MAX_BODY

ROWS = Rows()
good = ROWS.good
bad = ROWS.bad

# Reason why another server executes fewer requests.
ONE_LINE: dict[str, Any] = {"h11": 0, "because": "h11 wants no line before a request"}

# -- what is well-formed ------------------------------------------------------------------------

good("a GET", get())
good("a POST with a length", sized())
good("a POST without a body", post())
good("a POST with an empty body", sized(b""))
good("a POST in one chunk", chunked(b"5\r\nhello\r\n0\r\n\r\n"))
good("a POST in no chunk", chunked(b"0\r\n\r\n"))
good("a POST in many chunks", chunked(b"1\r\na\r\n" * 50 + b"0\r\n\r\n"))
good(
    "upper and lower case hexadecimal sizes",
    chunked(b"a\r\n0123456789\r\nA\r\n0123456789\r\n0\r\n\r\n"),
)
good("a chunk size with leading zeros", chunked(b"0005\r\nhello\r\n000\r\n\r\n"))
good("chunk extensions", chunked(b'5;a=b;c="d e"\r\nhello\r\n0;last\r\n\r\n'))
good("trailers", chunked(b"5\r\nhello\r\n0\r\nX-Sum: 1\r\nHost: b\r\n\r\n"))
good("a body of bytes that look like a request", sized(HIDDEN))
good(
    "a chunk of bytes that look like a request",
    chunked(b"%x\r\n%b\r\n0\r\n\r\n" % (len(HIDDEN), HIDDEN)),
)
good("a body of line ends", sized(b"\r\n\r\n\r\n"))
good("a body of all bytes", sized(bytes(range(256))))
good("a body as large as allowed", sized(b"x" * MAX_BODY))
good("chunks as large as allowed", chunked(b"%x\r\n%b\r\n0\r\n\r\n" % (MAX_BODY, b"x" * MAX_BODY)))
good("two requests at once", get() * 2, 2)
good("three of different kinds", sized() + get() + chunked(b"1\r\na\r\n0\r\n\r\n"), 3)
good("forty requests at once", sized() * 40, 40)
good("two hundred requests at once", get() * 200, 200)
good("an empty line before the request", b"\r\n" + get(), **ONE_LINE)
good("an empty line between requests", sized() + b"\r\n" + get(), 2, **{**ONE_LINE, "h11": 1})
good("names in small letters", GET + b"host: a\r\n\r\n")
good("names in capitals", LINE + b"HOST: a\r\nCONTENT-LENGTH: 2\r\n\r\nhi")
good("no space behind the colon", LINE + b"Host:a\r\nContent-Length:2\r\n\r\nhi")
good("much space around values", LINE + b"Host: \t a \t\r\nContent-Length: \t2\t \r\n\r\nhi")
good("an empty value", get(b"X:"))
good("a value of spaces", get(b"X:    "))
good("a value with spaces inside", get(b"X: a  b\tc"))
good("a value of Latin-1", get(b"X: caf\xe9 \xff"))
good("a name of every sign that a token may have", get(b"!#$%&'*+-.^_`|~09Az: x"))
good("a hundred fields", get(*[b"X%d: y" % number for number in range(MAX_FIELDS - 1)]))
good("a length with leading zeros", post(b"Content-Length: 0002", body=b"hi"))
good("a length for a GET", GET + HOST + b"Content-Length: 2\r\n\r\nhi")
good("a chunked GET", GET + HOST + CHUNKED + b"\r\n1\r\na\r\n0\r\n\r\n")
good("the coding in capitals", post(b"Transfer-Encoding: CHUNKED", body=b"0\r\n\r\n"))
good("a list in two fields", get(b"Accept: a/b", b"Accept: c/d"))
good("an unknown method", b"BREW /v1/stream/s HTTP/1.1\r\n" + HOST + b"\r\n")
good("a method in small letters", b"get /v1/stream/s HTTP/1.1\r\n" + HOST + b"\r\n")
for method in (b"PUT", b"DELETE", b"OPTIONS", b"PATCH", b"TRACE", b"PROPFIND", b"M-SEARCH"):
    good(f"a {method.decode()}", method + b" /v1/stream/s HTTP/1.1\r\n" + HOST + b"\r\n")
good("a HEAD, then a GET", b"HEAD /v1/stream/s HTTP/1.1\r\n" + HOST + b"\r\n" + get(), 2)
good("a query", b"GET /v1/stream/s?offset=-1&x=%20 HTTP/1.1\r\n" + HOST + b"\r\n")
good(
    "a target of odd signs",
    b"GET /v1/stream/a\"<>\\^`{|}~[]@!$&'()*+,;=:% HTTP/1.1\r\n" + HOST + b"\r\n",
)
good("two slashes", b"GET /v1/stream//s HTTP/1.1\r\n" + HOST + b"\r\n")
good("a path that climbs", b"GET /v1/stream/../x HTTP/1.1\r\n" + HOST + b"\r\n")
good("a path that climbs in disguise", b"GET /v1/stream/%2e%2e/x HTTP/1.1\r\n" + HOST + b"\r\n")

# -- request lines ------------------------------------------------------------------------------

for line in (
    b"GET",
    b"GET ",
    b"GET  HTTP/1.1",
    b"GET /v1/stream/s",
    b"GET /v1/stream/s ",
    b"/v1/stream/s HTTP/1.1",
    b" GET /v1/stream/s HTTP/1.1",
    b"\tGET /v1/stream/s HTTP/1.1",
    b"GET  /v1/stream/s HTTP/1.1",
    b"GET\t/v1/stream/s HTTP/1.1",
    b"GET /v1/stream/s  HTTP/1.1",
    b"GET /v1/stream/s\tHTTP/1.1",
    b"GET /v1/stream/s HTTP/1.1 ",
    b"GET /v1/stream/s HTTP/1.1\t",
    b"GET /v1/stream/s HTTP/1.1 x",
    b"GET /v1/stream/a b HTTP/1.1",
    b"G(T /v1/stream/s HTTP/1.1",
    b"G:T /v1/stream/s HTTP/1.1",
    b"G\xc9T /v1/stream/s HTTP/1.1",
    b"GET\x00 /v1/stream/s HTTP/1.1",
    b'"GET" /v1/stream/s HTTP/1.1',
    b"GET /v1/stream/s http/1.1",
    b"GET /v1/stream/s HTTP",
    b"GET /v1/stream/s HTTP/",
    b"GET /v1/stream/s HTTP/1",
    b"GET /v1/stream/s HTTP/1.",
    b"GET /v1/stream/s HTTP/.1",
    b"GET /v1/stream/s HTTP/1,1",
    b"GET /v1/stream/s HTTP/11",
    b"GET /v1/stream/s HTTP/1.10",
    b"GET /v1/stream/s HTTP/01.1",
    b"GET /v1/stream/s HTTP/1.1.1",
    b"GET /v1/stream/s HTTP/+1.1",
    b"GET /v1/stream/s HTTP/a.b",
    b"GET /v1/stream/s HTTPS/1.1",
    b"GET /v1/stream/s XTTP/1.1",
    b"GET /v1/stream/s ICE/1.0",
    b"GET /v1/stream/s RTSP/1.0",
    b"HTTP/1.1 200 OK",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    b"",
):
    bad(f"the line {printable(line)}", line + b"\r\n" + HOST + b"\r\n")
    bad(
        f"the line {printable(line)}, behind a request",
        sized() + line + b"\r\n" + HOST + b"\r\n",
        before=1,
    )
bad("HTTP/0.9, as it was", b"GET /v1/stream/s\r\n")
bad("HTTP/0.9 with another request behind it", b"GET /v1/stream/s\r\n" + HIDDEN)
bad("two empty lines before the request", b"\r\n\r\n" + get())
for version in (b"0.9", b"1.2", b"1.9", b"2.0", b"3.0", b"9.9", b"0.0"):
    bad(
        f"HTTP/{version.decode()}",
        b"GET /v1/stream/s HTTP/" + version + b"\r\n" + HOST + b"\r\n",
        505,
    )
bad("the preface of HTTP/2", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0" * 9, 505)

# -- targets ------------------------------------------------------------------------------------

for target in (
    b"v1/stream/s",
    b"?offset=-1",
    b"*",
    b"/v1/stream/s#part",
    b"/v1/stream/s?x#part",
    b"#",
    b"/v1/stream/\x01",
    b"/v1/stream/\x7f",
    b"/v1/stream/\x00",
    b"/v1/stream/\xc3\xa9",
    b"/v1/stream/\xff",
    b"http:/v1/stream/s",
    b"http:///v1/stream/s",
    b"http://",
    b"http://user@a/v1/stream/s",
    b"http://user:pass@a/v1/stream/s",
    b"http://a b/v1/stream/s",
    b"http://a:b/v1/stream/s",
    b"http://[::1/v1/stream/s",
    b"ftp://a/v1/stream/s",
    b"file:///v1/stream/s",
    b"ws://a/v1/stream/s",
    b"a:80",
    b"a",
):
    bad(f"the target {printable(target)}", b"GET " + target + b" HTTP/1.1\r\n" + HOST + b"\r\n")
bad("a target that closes its line", b"GET /v1/stream/a\r\nX: y HTTP/1.1\r\n" + HOST + b"\r\n")
for authority in (b"a", b"A:80", b"a.example:4437", b"127.0.0.1", b"[::1]:80"):
    target = b"http://" + authority + b"/v1/stream/s?x"
    good(f"the target {printable(target)}", b"GET " + target + b" HTTP/1.1\r\n" + HOST + b"\r\n")
good("an absolute target in capitals", b"GET HTTP://A/v1/stream/s HTTP/1.1\r\n" + HOST + b"\r\n")
good("an absolute target of https", b"GET https://a/v1/stream/s HTTP/1.1\r\n" + HOST + b"\r\n")
bad("an absolute target without a Host", b"GET http://a/v1/stream/s HTTP/1.1\r\n\r\n")

# -- fields -------------------------------------------------------------------------------------

for sign in b'\x00\x01\x07\x08\x0b\x0c\x1b\x1f \t"(),/;<=>?@[\\]{}\x7f\x80\xe9\xff':
    name = b"X" + bytes([sign]) + b"Y"
    bad(f"a name with {printable(bytes([sign]))}", get(name + b": z"))
for sign in b"\x00\x01\x02\x07\x08\x0b\x0c\x0e\x1b\x1f\x7f":
    bad(f"a value with {printable(bytes([sign]))}", get(b"X: y" + bytes([sign]) + b"z"))
bad("a name that ends with a space", get(b"X : y"))
bad("a name that ends with a tab", get(b"X\t: y"))
bad("a length's name that ends with a space", post(b"Content-Length : 5", body=b"hello"))
bad(
    "a coding's name that ends with a space",
    post(b"Transfer-Encoding : chunked", body=b"0\r\n\r\n"),
)
bad("no name", get(b": y"))
bad("no colon", get(b"X"))
bad("no colon in the first field", GET + b"Host\r\n\r\n")
bad("a field that begins with a space", GET + b" X: y\r\n" + HOST + b"\r\n")
bad("a field that begins with a tab", GET + b"\tX: y\r\n" + HOST + b"\r\n")
bad("a value on two lines", get(b"X: y", b" z"))
bad("a value on two lines, by a tab", get(b"X: y", b"\tz"))
bad("a value on three lines", get(b"X: y", b" ", b" z"))
bad("a Host on two lines", GET + b"Host: a\r\n b\r\n\r\n")
bad("a length on two lines", post(b"Content-Length:", b" 5", body=b"hello"))
bad("a length that goes on", post(b"Content-Length: 1", b" 0", body=b"0123456789"))
bad("a coding on two lines", post(b"Transfer-Encoding:", b" chunked", body=b"0\r\n\r\n"))
bad(
    "a coding behind a folded field",
    post(b"X: y", b" Transfer-Encoding: chunked", body=b"0\r\n\r\n"),
)
bad("a line of spaces", get(b"  "))

# -- line ends ----------------------------------------------------------------------------------

bad("LF for every line's end", (GET + HOST + b"\r\n").replace(b"\r\n", b"\n"))
bad("LF behind the first line", b"GET /v1/stream/s HTTP/1.1\nHost: a\r\n\r\n")
bad("LF behind a field", GET + b"Host: a\nX: y\r\n\r\n")
bad("LF before the empty line", GET + b"Host: a\n\r\n")
bad("LF for the empty line", GET + b"Host: a\r\n\n" + HIDDEN)
bad("LF and CR", GET + b"Host: a\n\rX: y\r\n\r\n")
bad("CR for every line's end", (GET + HOST + b"\r\n").replace(b"\n", b"") + HIDDEN)
bad("CR behind the first line", b"GET /v1/stream/s HTTP/1.1\rHost: a\r\n\r\n")
bad("CR in a value", get(b"X: y\rz"))
bad("CR before a field", get(b"X: y\rContent-Length: 5"))
bad("CR at a value's end", get(b"X: y\r"))
bad("CR in a name", get(b"X\rY: z"))
bad("CR CR LF", GET + b"Host: a\r\r\n\r\n")
bad("CR CR LF for the empty line", GET + HOST + b"\r\r\n")
bad("LF in a value, and a hidden length", post(b"X: y\nContent-Length: 5", body=b"hello"))
bad(
    "LF in a value, and a hidden coding",
    post(b"X: y\nTransfer-Encoding: chunked", body=b"0\r\n\r\n"),
)
bad("LF before the request", b"\n" + get())
bad("CR before the request", b"\r" + get())
bad("LF before the second request", sized() + b"\n" + get(), before=1)

# -- Host ---------------------------------------------------------------------------------------

bad("no Host", GET + b"\r\n")
bad("no Host, for a POST", LINE + b"Content-Length: 2\r\n\r\nhi")
bad("two Hosts", GET + HOST + b"Host: b\r\n\r\n")
bad("the same Host twice", GET + HOST + HOST + b"\r\n")
bad("two Hosts, one in capitals", GET + HOST + b"HOST: a\r\n\r\n")
bad("two Hosts behind another pair", GET + b"Origin: a\r\nOrigin: a\r\n" + HOST + HOST + b"\r\n")
bad("two Hosts around another pair", GET + HOST + b"Origin: a\r\nOrigin: a\r\n" + HOST + b"\r\n")
bad("two Hosts, one empty", GET + b"Host:\r\n" + HOST + b"\r\n")
for host in (
    b"",
    b"a b",
    b"a, b",
    b"a/b",
    b"a?b",
    b"a#b",
    b"a@b",
    b"http://a",
    b"a:b",
    b"a:80:80",
    b"a:-1",
    b"a:999999",
    b"[::1",
    b"::1",
    b"[g::1]",
    b"a\xe9",
    b"a\\b",
    b"<a>",
    b'"a"',
    b"a..b",
    b".",
    b"%00",
):
    bad(f"the Host {printable(host)}", GET + b"Host: " + host + b"\r\n\r\n")
for host in (
    b"A",
    b"a.b.example",
    b"a.",
    b"a:80",
    b"a:",
    b"127.0.0.1:1",
    b"[::1]",
    b"[::1]:80",
    b"a_b",
):
    good(f"the Host {printable(host)}", GET + b"Host: " + host + b"\r\n\r\n")
