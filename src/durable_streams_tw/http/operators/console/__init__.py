"""``/-/console``: web page on which operators list, follow and write streams.

The page is static and holds no data: its script sends requests with the token that the user
enters, so the page itself needs no credentials. Script and style are inline, and the content
security policy allows only their hashes.
"""

from __future__ import annotations

from base64 import b64encode
from functools import cache
from hashlib import sha256
from importlib.resources import files
from typing import Any, Final

from twisted.web.server import Request

from durable_streams_tw.http.messages import Response
from durable_streams_tw.http.operators import resources
from durable_streams_tw.http.twisted_web.resource import send

_HTML: Final = b"text/html; charset=utf-8"


class Console(resources.OperatorResource):
    """Resource of the console page."""

    def __init__(self) -> None:
        resources.OperatorResource.__init__(self)
        # Read the files at start: an upgrade may replace them while the server runs.
        whole_page()

    def show(self, request: Request) -> Any:
        """Send the page."""
        body, policy = whole_page()
        fields = ((b"Content-Security-Policy", policy), (b"Referrer-Policy", b"same-origin"))
        return send(_page(body, *fields), request)


def _page(body: bytes, *fields: tuple[bytes, bytes]) -> Response:
    return resources.page(200, _HTML, body, *fields)


@cache
def whole_page() -> tuple[bytes, bytes]:
    """Return the page with script and style inlined, and its content security policy."""
    folder = files(__name__)
    style = folder.joinpath("page.css").read_bytes()
    script = folder.joinpath("page.js").read_bytes()
    page = folder.joinpath("page.html").read_bytes()
    for placeholder, content in ((b"/* page.css */", style), (b"/* page.js */", script)):
        before, found, after = page.partition(placeholder)
        assert found, "page.html has every placeholder"
        page = before + content + after
    directives = (
        b"default-src 'none'",
        b"script-src " + _hash(script),
        b"style-src " + _hash(style),
        b"connect-src 'self'",
        b"img-src data:",
        b"base-uri 'none'",
        b"form-action 'none'",
        b"frame-ancestors 'none'",
        b"require-trusted-types-for 'script'",
        b"trusted-types 'none'",
    )
    return page, b"; ".join(directives)


def _hash(content: bytes) -> bytes:
    return b"'sha256-" + b64encode(sha256(content).digest()) + b"'"
