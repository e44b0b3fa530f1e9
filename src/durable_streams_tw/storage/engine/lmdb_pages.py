"""Page structure of an LMDB 0.9 data file, read without mapping it into memory.

Reading a mapped page beyond the end of the file ends the process with SIGBUS, so this is how a
file that is shorter than its map says is looked at. LMDB's ``mdb.c`` has the layout, here that of
64-bit systems.
"""

from __future__ import annotations

import os
import struct
from operator import itemgetter
from typing import Final

# Header of a page: its number, padding, flags, and where its free space begins and ends.
_HEADER: Final = struct.Struct("=QHHHH")
_BRANCH: Final = 0x01
_LEAF: Final = 0x02

# Meta page behind its header: magic number, version, address, map size; then two trees (the free
# pages, and the pairs), the last page, and the transaction.
_META: Final = struct.Struct("=IIQQ48s48sQQ")
_MAGIC: Final = 0xBEEFC0DE

# Tree: page size, flags, depth, counts of branch, leaf and overflow pages and of entries, root.
_TREE: Final = struct.Struct("=IHHQQQQQ")
_NO_PAGE: Final = (1 << 64) - 1

# Node: size of its data or number of a page (with the flags), flags, size of its key.
_NODE: Final = struct.Struct("=HHHH")
_NUMBER: Final = struct.Struct("=Q")
_BIG: Final = 0x01


class DamagedPages(Exception):
    """The file has no such structure."""


def used_end(path: str, transaction: int) -> int:
    """Return the offset behind the last page that the last commit uses, in bytes.

    Call with a snapshot open, whose number is ``transaction``: no page of its commit or of a later
    one is used again meanwhile. A page that the file does not have counts, those that it would lead
    to do not. Raises `OSError` and `DamagedPages`.
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
        """Walk over both trees of the last commit."""
        # The first page says how large pages are.
        *_, free, _, _, _ = self._meta(0)
        self._page_size = _TREE.unpack(free)[0]
        *_, free, pairs, last, found = max(self._meta(0), self._meta(1), key=itemgetter(-1))
        if found < transaction:
            raise DamagedPages(f"no meta page is that of commit {transaction}")
        self._end = 2 * self._page_size
        roots = [_TREE.unpack(tree)[-1] for tree in (free, pairs)]
        left = [root for root in roots if root != _NO_PAGE]
        walked = 0
        while left:
            walked += 1
            if walked > last + 1:
                raise DamagedPages("pages lead in a circle")
            left += self._children(left.pop())
        return self._end

    def _meta(self, number: int) -> tuple[int, int, int, int, bytes, bytes, int, int]:
        data = os.pread(self._descriptor, _HEADER.size + _META.size, number * self._page_size)
        meta = _META.unpack_from(data, _HEADER.size)
        if meta[0] != _MAGIC:
            raise DamagedPages(f"page {number} is no meta page")
        return meta

    def _children(self, number: int) -> list[int]:
        """Return the pages of a tree that a page leads to, and count its own end."""
        begin = number * self._page_size
        self._end = max(self._end, begin + self._page_size)
        if begin + self._page_size > self._size:
            return []
        page = os.pread(self._descriptor, self._page_size, begin)
        own, _, flags, lower, _ = _HEADER.unpack_from(page)
        if own != number or not flags & (_BRANCH | _LEAF):
            raise DamagedPages(f"page {number} belongs to no tree")
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
