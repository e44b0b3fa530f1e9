"""Which program wrote a store, and whether this one may use it."""

from __future__ import annotations

import msgspec
from msgspec.structs import replace

from durable_streams_tw import __version__
from durable_streams_tw.storage.engine import codec
from durable_streams_tw.storage.engine.kv import EngineFailed, EngineFull, KeyValueEngine
from durable_streams_tw.storage.errors import StoreUnusable


def check_format(engine: KeyValueEngine, where: str, now: int) -> None:
    """Make sure that a engine is ours and not newer than we are; mark an empty one.

    ``where`` names it in sentences, ``now`` is in milliseconds since 1970. Raises
    `StoreUnusable`.
    """
    try:
        with engine.snapshot() as view:
            value = view.get(codec.META_KEY)
            known = None if value is None else bytes(value)
            empty = next(view.scan(b"\x00", b"\xff"), None) is None
        if known is not None:
            _judge(known, where)
            _upgrade(engine, known)
        elif empty:
            _mark(engine, now)
        else:
            raise StoreUnusable(f"{where} holds a database that is not this server's")
    except (EngineFull, EngineFailed) as failure:
        raise StoreUnusable(f"{where} cannot be used: {failure}") from None


def first_id(now: int) -> int:
    """The first id of a store that is made now (ms since 1970).

    No id of an earlier store in the same place: a cache may still know that one's.
    """
    return (now << 20) + 1


def _judge(value: bytes, where: str) -> None:
    try:
        meta = codec.unpack_meta(value)
    except msgspec.MsgspecError:
        meta = None
    if meta is None or meta.kind != codec.KIND:
        raise StoreUnusable(f"{where} holds a database that is not this server's")
    if meta.format > codec.FORMAT:
        raise StoreUnusable(
            f"{where} was written by version {meta.version}, which this version "
            f"({__version__}) cannot read"
        )


def _upgrade(engine: KeyValueEngine, value: bytes) -> None:
    """Mark an older store as one that may have this version's records from now on."""
    meta = codec.unpack_meta(value)
    if meta.format == codec.FORMAT:
        return
    batch = engine.begin()
    try:
        batch.put(codec.META_KEY, codec.pack_meta(replace(meta, format=codec.FORMAT)))
        batch.commit()
    except BaseException:
        batch.abort()
        raise


def _mark(engine: KeyValueEngine, now: int) -> None:
    batch = engine.begin()
    try:
        batch.put(codec.META_KEY, codec.pack_meta(codec.Meta(codec.FORMAT, __version__, now)))
        packed = codec.pack_integer(first_id(now))
        batch.put(codec.NEXT_ID_KEY, codec.seal(codec.NEXT_ID_KEY, packed))
        batch.commit()
    except BaseException:
        batch.abort()
        raise
