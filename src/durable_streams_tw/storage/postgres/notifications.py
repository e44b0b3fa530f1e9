"""Hints between nodes: after a commit, the other nodes read the streams that it changed.

A hint names a node and ids of streams. It may be lost: with its sender, while a listener connects
again, or in a full queue. Therefore each node also polls all streams that it follows once a
second, and whenever its listener has connected.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from threading import Event, Thread
from typing import Final

import psycopg
from twisted.logger import Logger

from durable_streams_tw.storage.postgres.connection import (
    DatabaseSettings,
    advisory_class,
    connect,
    reason_of,
)

#: Bytes of one notification; PostgreSQL accepts 7,999.
_PAYLOAD: Final = 7_900

#: Streams above which a hint names none: the other nodes poll all that they follow.
_MOST: Final = 50_000

#: Seconds for which the listener waits for notifications, and between attempts to connect.
_WAIT: Final = 1.0
_PAUSE: Final = 0.2


def channel_of(settings: DatabaseSettings) -> str:
    """Return the name of the channel on which the nodes of a schema notify each other."""
    return f"durable_streams_{advisory_class(settings.schema) & 0xFFFFFFFF:08x}"


def encode_hints(node: str, ids: Iterable[int]) -> list[str]:
    """Return the payloads that name the changed streams, none for no streams."""
    texts = [f"{stream_id:x}" for stream_id in ids]
    if len(texts) > _MOST:
        return [f"{node}:*"]
    payloads: list[str] = []
    size = _PAYLOAD
    for text in texts:
        if size + 1 + len(text) > _PAYLOAD:
            payloads.append(f"{node}:{text}")
            size = len(payloads[-1].encode("utf-8"))
        else:
            payloads[-1] += f",{text}"
            size += 1 + len(text)
    return payloads


def decode_hint(payload: str) -> tuple[str, set[int] | None]:
    """Return the node and the ids of a hint; None for all streams, or if it cannot be decoded."""
    node, _, text = payload.rpartition(":")
    try:
        return node, None if text == "*" else {int(each, 16) for each in text.split(",")}
    except ValueError:
        return node, None


class NotificationListener:
    """Thread that waits for the hints of other nodes.

    It calls ``on_hint`` with ids of streams, or with None for all that are followed.
    """

    _log = Logger()

    def __init__(
        self, settings: DatabaseSettings, node: str, on_hint: Callable[[set[int] | None], None]
    ) -> None:
        self._settings = settings
        self._node = node
        self._on_hint = on_hint
        self._stopping = Event()
        self._failing = False

    def start(self) -> None:
        """Start the thread."""
        Thread(target=self._run, name="durable-streams-listen", daemon=True).start()

    def stop(self) -> None:
        """Let the thread end, within a second. Does not wait for it."""
        self._stopping.set()

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                self._listen()
            except psycopg.Error as error:
                if not self._failing:
                    self._log.warn(
                        "Listening for other nodes failed: {reason}", reason=reason_of(error)
                    )
                self._failing = True
                self._stopping.wait(_PAUSE)

    def _listen(self) -> None:
        with connect(self._settings, self._settings.listen_url) as connection:
            connection.execute(f"LISTEN {channel_of(self._settings)}".encode())
            self._failing = False
            # Hints before this moment are lost.
            self._on_hint(None)
            while not self._stopping.is_set():
                ids: set[int] | None = set()
                for notice in connection.notifies(timeout=_WAIT, stop_after=1):
                    node, changed = decode_hint(notice.payload)
                    if node != self._node:
                        ids = None if ids is None or changed is None else ids | changed
                if ids is None or ids:
                    self._on_hint(ids)
