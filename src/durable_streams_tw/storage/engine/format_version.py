"""Format version of a store: check at every start, mark on creation, upgrade."""

from __future__ import annotations

import msgspec
from msgspec.structs import replace

from durable_streams_tw import __version__
from durable_streams_tw.storage.engine import codec
from durable_streams_tw.storage.engine.kv import EngineFailed, EngineFull, KeyValueEngine
from durable_streams_tw.storage.errors import StoreUnusable


def check_format(engine: KeyValueEngine, where: str, now: int) -> None:
    """Check that this version can use a store; write the format record of an empty one.

    ``where`` names the store in messages, ``now`` is in ms since the Unix epoch. Raises
    `StoreUnusable`.
    """
    try:
        with engine.snapshot() as view:
            value = view.get(codec.META_KEY)
            known = None if value is None else bytes(value)
            empty = next(view.scan(b"\x00", b"\xff"), None) is None
        if known is not None:
            _check_meta(known, where)
            _upgrade(engine, known)
        elif empty:
            _initialize(engine, now)
        else:
            raise StoreUnusable(f"{where} holds a database that does not belong to this server")
    except (EngineFull, EngineFailed) as failure:
        raise StoreUnusable(f"{where} cannot be used: {failure}") from None


def first_id(now: int) -> int:
    """Return the first stream id of a store created at ``now`` (ms since the Unix epoch).

    It is above all ids of an earlier store in the same place, whose bytes caches may still hold.
    """
    return (now << 20) + 1


def _check_meta(value: bytes, where: str) -> None:
    try:
        meta = codec.unpack_meta(value)
    except msgspec.MsgspecError:
        meta = None
    if meta is None or meta.kind != codec.KIND:
        raise StoreUnusable(f"{where} holds a database that does not belong to this server")
    if meta.format > codec.FORMAT:
        raise StoreUnusable(
            f"{where} was written by version {meta.version}, which this version "
            f"({__version__}) cannot read"
        )


def _upgrade(engine: KeyValueEngine, value: bytes) -> None:
    """Write the current format number, so that older versions refuse the store from now on."""
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


def _initialize(engine: KeyValueEngine, now: int) -> None:
    batch = engine.begin()
    try:
        batch.put(codec.META_KEY, codec.pack_meta(codec.Meta(codec.FORMAT, __version__, now)))
        packed = codec.pack_integer(first_id(now))
        batch.put(codec.NEXT_ID_KEY, codec.seal(codec.NEXT_ID_KEY, packed))
        batch.commit()
    except BaseException:
        batch.abort()
        raise
