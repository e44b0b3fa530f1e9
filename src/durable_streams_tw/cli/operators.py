"""Requests for the operator resources of a server (``/-/``), for the client commands."""

from __future__ import annotations

import fnmatch
from collections.abc import AsyncGenerator, Callable
from typing import Any, Final
from urllib.parse import urlsplit

import click
from msgspec import json

from durable_streams_tw.client import StreamClient
from durable_streams_tw.client.errors import BadResponse, NotFound

_PAGE: Final = "1000"
_WILDCARDS: Final = "*?["


class Operators:
    """Operator resources of the server of a client."""

    def __init__(self, client: StreamClient) -> None:
        self._client = client
        parts = urlsplit(client.url)
        self._origin = f"{parts.scheme}://{parts.netloc}"

    async def get(self, name: str, **query: str | None) -> dict[str, Any]:
        """Return the JSON object of a resource. Raises `ClientError`."""
        endpoint = self._client.endpoint(f"{self._origin}/-/{name}")
        try:
            answer = await endpoint.insist(lambda: endpoint.ask("GET", query=query))
        except NotFound as error:
            if "operator resource" in error.detail or not error.problem:
                raise click.ClickException(
                    f"{self._origin} has no /-/{name}. Start the server with --listing."
                ) from None
            raise
        try:
            found = json.decode(answer.body)
        except ValueError:
            found = None
        if not isinstance(found, dict):
            raise BadResponse(f"the response of /-/{name} is not a JSON object")
        return found

    async def pages(
        self, name: str, key: str, **query: str | None
    ) -> AsyncGenerator[dict[str, Any], None]:
        """Yield the elements of all pages of a list."""
        after = None
        while True:
            page = await self.get(name, limit=_PAGE, after=after, **query)
            for element in page[key]:
                yield element
            after = page.get("after")
            if after is None:
                return

    async def streams(
        self, pattern: str = "", sort: str = "name"
    ) -> AsyncGenerator[dict[str, Any], None]:
        """Yield the streams whose path begins with a prefix, or matches a pattern with wildcards.

        In a pattern ``*`` matches any text, also across slashes, ``?`` one character.
        """
        prefix, matches = selection(pattern)
        query = {"prefix": prefix, "sort": None if sort == "name" else sort}
        async for stream in self.pages("streams", "streams", **query):
            if matches(stream["path"]):
                yield stream

    async def expand(self, names: tuple[str, ...]) -> list[str]:
        """Return stream names with patterns replaced by the names of their streams.

        Raises `click.ClickException` if a pattern matches none.
        """
        found = []
        for name in names:
            if not is_pattern(name):
                found.append(name)
                continue
            matched = [stream["path"] async for stream in self.streams(name)]
            if not matched:
                raise click.ClickException(f"No stream matches {name}.")
            found += matched
        return list(dict.fromkeys(found))


def is_pattern(name: str) -> bool:
    """Return whether a stream name has wildcards. A URL has none."""
    return "://" not in name and any(letter in name for letter in _WILDCARDS)


def selection(pattern: str) -> tuple[str, Callable[[str], bool]]:
    """Return the prefix of a pattern before its first wildcard, and the test of a path."""
    if not is_pattern(pattern):
        return pattern, lambda path: True
    stop = min(pattern.find(letter) for letter in _WILDCARDS if letter in pattern)
    return pattern[:stop], lambda path: fnmatch.fnmatchcase(path, pattern)
