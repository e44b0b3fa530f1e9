"""Globs over stream paths: ``*`` is one segment, ``**`` any number (PROTOCOL.md §6.2).

A wildcard matches whole segments only. Matching never backtracks exponentially: it takes time
proportional to at most the product of both lengths.
"""

from __future__ import annotations

import re
from typing import Final

from durable_streams_tw.protocol.errors import Problem, Refused
from durable_streams_tw.protocol.limits import MAX_GLOB_STARS
from durable_streams_tw.protocol.paths import check_stream_path

ONE: Final = 1
"""Segment ``*`` of a glob."""

MANY: Final = 2
"""Segment ``**`` of a glob."""

Glob = tuple[str | int, ...]
"""Segments of a glob: literal text, `ONE` or `MANY`."""

_WILD: Final = {"*": ONE, "**": MANY}
_LITERAL_STAR: Final = re.compile("%2A", re.IGNORECASE)


def parse_glob(text: str) -> Glob:
    """Return the segments of a glob, which has no slash at either end.

    ``%2A`` is a literal star. Raises `Refused` (INVALID_REQUEST) if the text is not a valid
    stream path, combines a star with other text in a segment, or has more than
    `MAX_GLOB_STARS` wildcards.
    """
    try:
        check_stream_path(text)
    except Refused as refused:
        detail = f"pattern: {refused.refusal.detail}"
        raise Refused(Problem.INVALID_REQUEST, detail) from None
    segments: list[str | int] = []
    stars = 0
    for segment in text.split("/"):
        wild = _WILD.get(segment)
        if wild is not None:
            stars += 1
            if wild == MANY and segments[-1:] == [MANY]:
                continue
            segments.append(wild)
        elif "*" in segment:
            raise Refused(
                Problem.INVALID_REQUEST,
                "pattern: * and ** must be whole segments; write a literal star as %2A",
            )
        else:
            segments.append(_LITERAL_STAR.sub("*", segment))
    if stars > MAX_GLOB_STARS:
        raise Refused(
            Problem.INVALID_REQUEST, f"pattern: at most {MAX_GLOB_STARS} wildcards are allowed"
        )
    return tuple(segments)


def matches(glob: Glob, name: str) -> bool:
    """Return whether a whole stream path matches a glob."""
    segments = name.split("/")
    at = here = 0
    # Index of the last ** and the segment up to which it reaches. Only the last one needs to be
    # extended: it can match everything that an extended earlier one could.
    many, reach = -1, 0
    while here < len(segments):
        if at < len(glob) and glob[at] == MANY:
            many, reach = at, here
            at += 1
        elif at < len(glob) and (glob[at] == ONE or glob[at] == segments[here]):
            at += 1
            here += 1
        elif many >= 0:
            reach += 1
            at, here = many + 1, reach
        else:
            return False
    return all(part == MANY for part in glob[at:])


def literal_prefix(glob: Glob) -> str:
    """Return the prefix of every matching path: the text before the first wildcard."""
    literal: list[str] = []
    for part in glob:
        if isinstance(part, int):
            # ** also matches no segment, so the slash before it is optional.
            return "/".join(literal) + ("/" if literal and part == ONE else "")
        literal.append(part)
    return "/".join(literal)
