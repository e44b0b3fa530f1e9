"""Format version of a store: check at every start, mark on creation, upgrade."""

from __future__ import annotations

from contextlib import suppress

import msgspec
from msgspec.structs import replace

from durable_streams_tw import __version__
from durable_streams_tw.storage.engine import codec
from durable_streams_tw.storage.engine.kv import EngineFailed, EngineFull, KeyValueEngine, View
from durable_streams_tw.storage.engine.wal.checkpoint import commit_changes
from durable_streams_tw.storage.errors import StoreUnusable


def check_format(engine: KeyValueEngine, where: str, now: int) -> None:
    """Check that this version can use a store; write the format record of an empty one.

    ``where`` names the store in messages, ``now`` is in ms since the Unix epoch. Raises
    `StoreUnusable`.
    """
    try:
        with engine.snapshot() as view:
            empty = next(view.scan(b"\x00", b"\xff"), None) is None
            meta = None if empty else require_meta(view, where)
        if meta is None:
            first = codec.seal(codec.NEXT_ID_KEY, codec.pack_integer(first_id(now)))
            meta = codec.Meta(codec.FORMAT, __version__, now)
            new = [(codec.META_KEY, codec.pack_meta(meta)), (codec.NEXT_ID_KEY, first)]
            commit_changes(engine, new)
        elif meta.format > codec.FORMAT:
            raise StoreUnusable(
                f"{where} was written by version {meta.version}, which this version "
                f"({__version__}) cannot read"
            )
        elif meta.format < codec.FORMAT:
            # Older versions refuse the store from now on.
            current = codec.pack_meta(replace(meta, format=codec.FORMAT))
            commit_changes(engine, [(codec.META_KEY, current)])
    except (EngineFull, EngineFailed) as failure:
        raise StoreUnusable(f"{where} cannot be used: {failure}") from None


def require_meta(view: View, where: str) -> codec.Meta:
    """Return the format record. Raises `StoreUnusable` if it is missing or of another program."""
    value = view.get(codec.META_KEY)
    with suppress(msgspec.MsgspecError):
        meta = None if value is None else codec.unpack_meta(value)
        if meta is not None and meta.kind == codec.KIND:
            return meta
    raise StoreUnusable(f"{where} holds a database that does not belong to this server")


def first_id(now: int) -> int:
    """Return the first stream id of a store created at ``now`` (ms since the Unix epoch).

    It is above all ids of an earlier store in the same place, whose bytes caches may still hold.
    """
    return (now << 20) + 1
