"""Questions about the streams of a store, each answered on one snapshot of it."""

from __future__ import annotations

from msgspec import Struct

from durable_streams_tw.protocol.streams.state import StreamState
from durable_streams_tw.storage.api import StoreSnapshot
from durable_streams_tw.storage.errors import CorruptRecord
from durable_streams_tw.storage.limits import LISTING_PAGE, MAX_LISTING_SCAN

# Sorts after every other character, so a listing that continues after a folder and this character
# has passed all names in the folder.
_LAST = "\U0010ffff"

# Names up to 480 bytes sort by their bytes (see `codec.listing_key`), longer ones by a hash.
_MAX_SKIPPED = 470


class Page(Struct, frozen=True):
    """One page of a listing, in order of names.

    ``after`` is the argument that returns the next page, None on the last page. ``unreadable``
    are the names of streams whose records are damaged. ``folders`` are prefixes that end with a
    slash.
    """

    streams: tuple[StreamState, ...]
    after: str | None = None
    unreadable: tuple[str, ...] = ()
    folders: tuple[str, ...] = ()


class ListStreams(Struct, frozen=True, array_like=True, tag=True):
    """Question for up to ``limit`` streams whose names start with a prefix, after ``after``.

    Streams that clients cannot use, expired or kept only for their forks, are left out. At most
    ``scan`` names are examined, so a page may be short or empty although more streams follow:
    continue at its ``after``. ``contains`` is text anywhere in the name, in upper or lower case.
    With ``tree``, names with a slash after the prefix are replaced by their folder, which counts
    as one entry and one examined name however many streams it has.
    """

    prefix: str = ""
    after: str = ""
    limit: int = LISTING_PAGE
    scan: int = MAX_LISTING_SCAN
    contains: str = ""
    tree: bool = False

    def answer(self, snapshot: StoreSnapshot) -> Page:
        """Return the page."""
        streams: list[StreamState] = []
        unreadable: list[str] = []
        folders: list[str] = []
        wanted = self.contains.casefold()
        last, examined = self.after, 0
        names = snapshot.stream_names(self.prefix, self.after)
        while (name := next(names, None)) is not None:
            # Reached only if a name follows the page, so ``after`` is None on the last page.
            if examined == self.scan or len(streams) + len(folders) == self.limit:
                return Page(tuple(streams), last, tuple(unreadable), tuple(folders))
            examined += 1
            last = name
            if not name.startswith(self.prefix) or wanted not in name.casefold():
                continue
            folder = self._folder_of(name)
            if folder is not None and folder in folders[-1:]:
                continue
            try:
                state = snapshot.active_stream(name)
            except CorruptRecord:
                unreadable.append(name)
                continue
            if state is None:
                continue
            if folder is None:
                streams.append(state)
                continue
            folders.append(folder)
            if len(folder.encode("utf-8")) <= _MAX_SKIPPED:
                last = folder + _LAST
                names = snapshot.stream_names(self.prefix, last)
        return Page(tuple(streams), None, tuple(unreadable), tuple(folders))

    def _folder_of(self, name: str) -> str | None:
        """Return the folder below the prefix that a name is in, None if it is in none."""
        if not self.tree:
            return None
        head, slash, _ = name[len(self.prefix) :].partition("/")
        return self.prefix + head + slash if slash else None


class StreamStates(Struct, frozen=True, array_like=True, tag=True):
    """Question for the states of the streams at some paths."""

    paths: tuple[str, ...]

    def answer(self, snapshot: StoreSnapshot) -> tuple[StreamState | None, ...]:
        """Return the states in the order of the paths, None where clients cannot use a stream."""
        return tuple([snapshot.active_stream(path) for path in self.paths])
