"""``/-/console``: web page on which operators list, follow and write streams.

The page and its scripts hold no data: they send requests with the token that the user enters, so
they need no credentials themselves. The content security policy allows the stylesheet and the first
script by a nonce of each response; a browser extends the nonce to the modules that a script
imports. So a stream that is served as a script or a stylesheet is never executed.
"""

from __future__ import annotations

from html import escape
from importlib.resources import files
from secrets import token_urlsafe
from typing import Any, Final

from twisted.web.server import Request

from durable_streams_tw.http.operators import resources
from durable_streams_tw.http.twisted_web.resource import send

_TYPES: Final = {
    ".css": b"text/css; charset=utf-8",
    ".html": b"text/html; charset=utf-8",
    ".js": b"text/javascript; charset=utf-8",
}
_PAGE: Final = "page.html"
_NONCE: Final = b"{nonce}"
_ROOT: Final = b"{root}"


class Console(resources.OperatorResource):
    """Resource of the console page, and of its scripts and stylesheet below it.

    ``root`` is the raw path of the streams, without its first slash.
    """

    def __init__(self, root: bytes) -> None:
        resources.OperatorResource.__init__(self)
        # Read the files at start: an upgrade may replace them while the server runs.
        self._files = {
            file.name: file.read_bytes()
            for file in files(__name__).iterdir()
            if _type_of(file.name) is not None
        }
        path = escape("/" + root.decode("ascii")).encode("ascii")
        self._files[_PAGE] = self._files[_PAGE].replace(_ROOT, path)

    def render(self, request: Request) -> Any:
        """Send the page, or the file that the path below it names."""
        if request.method not in (b"GET", b"HEAD"):
            return send(resources.read_only(), request)
        if not request.postpath:
            return self.show(request)
        name = b"/".join(request.postpath).decode("latin-1")
        content = self._files.get(name)
        if content is None or name == _PAGE:
            return resources.NotFoundResource().render(request)
        return send(resources.page(200, _type_of(name) or b"", content), request)

    def show(self, request: Request) -> Any:
        """Send the page."""
        nonce = token_urlsafe(16).encode("ascii")
        body = self._files[_PAGE].replace(_NONCE, nonce)
        fields = (
            (b"Content-Security-Policy", policy(nonce)),
            (b"Referrer-Policy", b"same-origin"),
        )
        return send(resources.page(200, _TYPES[".html"], body, *fields), request)


def policy(nonce: bytes) -> bytes:
    """Return the content security policy of the page."""
    return b"; ".join(
        (
            b"default-src 'none'",
            b"script-src 'nonce-" + nonce + b"'",
            b"style-src 'nonce-" + nonce + b"'",
            b"connect-src 'self'",
            b"img-src data:",
            b"base-uri 'none'",
            b"form-action 'none'",
            b"frame-ancestors 'none'",
            b"require-trusted-types-for 'script'",
            b"trusted-types 'none'",
        )
    )


def _type_of(name: str) -> bytes | None:
    return _TYPES.get(name[name.rfind(".") :])
