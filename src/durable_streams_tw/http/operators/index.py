"""``/``: page that names the resources of the server, or redirects to the console."""

from __future__ import annotations

from typing import Any

from twisted.web.server import Request

from durable_streams_tw.http.operators import resources
from durable_streams_tw.http.twisted_web.resource import send

_TEXT = b"text/plain; charset=utf-8"


class Index(resources.OperatorResource):
    """Resource of ``/``. ``root`` is the raw path of the streams, ``names`` those below ``/-/``."""

    def __init__(self, root: bytes, names: list[bytes]) -> None:
        resources.OperatorResource.__init__(self)
        self._console = b"console" in names
        lines = [b"Durable Streams server", b"", root + b"  streams"]
        lines += [resources.PREFIX + name for name in sorted(names)]
        self._page = resources.page(200, _TEXT, b"\n".join(lines) + b"\n")

    def show(self, request: Request) -> Any:
        """Send the names, or a redirect to the console if there is one."""
        if self._console:
            location = (b"Location", resources.PREFIX + b"console")
            return send(resources.page(303, _TEXT, b"", location), request)
        return send(self._page, request)
