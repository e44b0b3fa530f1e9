"""Page structure of an LMDB 0.9 data file, read without mapping it into memory.

A truncated file is checked with this: reading a mapped page beyond its end kills the process with
SIGBUS. The layout is that of LMDB's ``mdb.c`` on 64-bit systems.
"""

from __future__ import annotations

import os
import struct
from operator import itemgetter
from typing import Final

# Page header: page number, padding, flags, begin and end of the free space.
_HEADER: Final = struct.Struct("=QHHHH")
_BRANCH: Final = 0x01
_LEAF: Final = 0x02

# Meta page after its header: magic number, version, address, map size, tree of free pages, tree of
# pairs, last page, transaction.
_META: Final = struct.Struct("=IIQQ48s48sQQ")
_MAGIC: Final = 0xBEEFC0DE

# Tree: page size, flags, depth, numbers of branch, leaf and overflow pages and of entries, root.
_TREE: Final = struct.Struct("=IHHQQQQQ")
_NO_PAGE: Final = (1 << 64) - 1

# Node: size of its data, or page number (its high bits in the flags); flags; size of its key.
_NODE: Final = struct.Struct("=HHHH")
_NUMBER: Final = struct.Struct("=Q")
_BIG: Final = 0x01


class DamagedPages(Exception):
    """Invalid page structure of a data file."""


def used_end(path: str, transaction: int) -> int:
    """Return the end of the last page that the last commit uses, in bytes.

    Call with a snapshot open, whose number is ``transaction``: LMDB then reuses no page of its
    commit or of later ones. A page beyond the end of the file counts; its children do not. Raises
    `OSError` and `DamagedPages`.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return _Walk(descriptor).end(transaction)
    except (struct.error, IndexError) as error:
        raise DamagedPages(f"a page cannot be read: {error}") from None
    finally:
        os.close(descriptor)


class _Walk:
    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._size = os.fstat(descriptor).st_size
        self._page_size = 4096
        self._end = 0

    def end(self, transaction: int) -> int:
        """Walk both trees of the last commit."""
        # The first meta page has the page size.
        *_, free, _, _, _ = self._meta(0)
        self._page_size = _TREE.unpack(free)[0]
        *_, free, pairs, last, found = max(self._meta(0), self._meta(1), key=itemgetter(-1))
        if found < transaction:
            raise DamagedPages(f"no meta page belongs to commit {transaction}")
        self._end = 2 * self._page_size
        roots = [_TREE.unpack(tree)[-1] for tree in (free, pairs)]
        left = [root for root in roots if root != _NO_PAGE]
        walked = 0
        while left:
            walked += 1
            if walked > last + 1:
                raise DamagedPages("the pages form a cycle")
            left += self._children(left.pop())
        return self._end

    def _meta(self, number: int) -> tuple[int, int, int, int, bytes, bytes, int, int]:
        data = os.pread(self._descriptor, _HEADER.size + _META.size, number * self._page_size)
        meta = _META.unpack_from(data, _HEADER.size)
        if meta[0] != _MAGIC:
            raise DamagedPages(f"page {number} is not a meta page")
        return meta

    def _children(self, number: int) -> list[int]:
        """Return the children of a page, and update the end by the page and its overflow pages."""
        begin = number * self._page_size
        self._end = max(self._end, begin + self._page_size)
        if begin + self._page_size > self._size:
            return []
        page = os.pread(self._descriptor, self._page_size, begin)
        own, _, flags, lower, _ = _HEADER.unpack_from(page)
        if own != number or not flags & (_BRANCH | _LEAF):
            raise DamagedPages(f"page {number} is not a tree page")
        children: list[int] = []
        for at in range(_HEADER.size, lower, 2):
            offset = page[at] | page[at + 1] << 8
            low, high, node_flags, key_size = _NODE.unpack_from(page, offset)
            if flags & _BRANCH:
                children.append(low | high << 16 | node_flags << 32)
            elif node_flags & _BIG:
                (first,) = _NUMBER.unpack_from(page, offset + _NODE.size + key_size)
                length = _HEADER.size + (low | high << 16)
                count = (length + self._page_size - 1) // self._page_size
                self._end = max(self._end, (first + count) * self._page_size)
        return children
