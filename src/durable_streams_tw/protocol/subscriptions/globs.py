"""Globs over stream names (PROTOCOL.md §6.2): ``*`` is one segment, ``**`` any number of them.

A wildcard stands for whole segments only. Matching takes time in proportion to the product of
both lengths at most, whatever the pattern: nothing is tried that was tried before.
"""

from __future__ import annotations

import re
from typing import Final

from durable_streams_tw.protocol.errors import Problem, Refused
from durable_streams_tw.protocol.limits import MAX_GLOB_STARS
from durable_streams_tw.protocol.paths import check_name

ONE: Final = 1
"""Stands for ``*`` among a glob's segments."""

MANY: Final = 2
"""Stands for ``**``."""

Glob = tuple[str | int, ...]
"""A glob's segments: literal text, `ONE` or `MANY`."""

_WILD: Final = {"*": ONE, "**": MANY}
_LITERAL_STAR: Final = re.compile("%2A", re.IGNORECASE)


def parse_glob(text: str) -> Glob:
    """The segments of a glob, without slashes around it.

    ``%2A`` is a star that means itself. Raises `Refused` (INVALID_REQUEST) where the text
    could match no stream, mixes a star with other text in a segment, or has more than
    `MAX_GLOB_STARS` wildcards.
    """
    try:
        check_name(text)
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
                "pattern: * and ** stand for whole segments; a star that means itself is %2A",
            )
        else:
            segments.append(_LITERAL_STAR.sub("*", segment))
    if stars > MAX_GLOB_STARS:
        raise Refused(
            Problem.INVALID_REQUEST, f"pattern: at most {MAX_GLOB_STARS} wildcards are allowed"
        )
    return tuple(segments)


def matches(glob: Glob, name: str) -> bool:
    """Whether a stream name matches a glob as a whole."""
    segments = name.split("/")
    at = here = 0
    # Where the last ** stands, and up to which segment it reaches. Only that one has to give
    # way: whatever an earlier one could take, it can take as well.
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
    """The text that every matching name begins with, up to the first wildcard."""
    literal: list[str] = []
    for part in glob:
        if isinstance(part, int):
            # ** matches no segment too, so the slash before it need not be there.
            return "/".join(literal) + ("/" if literal and part == ONE else "")
        literal.append(part)
    return "/".join(literal)
