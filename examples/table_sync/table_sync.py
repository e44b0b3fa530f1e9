"""Replicate a database table through a stream.

    durable-streams-server dev
    python examples/table_sync/table_sync.py set source.db lisbon 24
    python examples/table_sync/table_sync.py push source.db http://localhost:4437/v1/stream/weather
    python examples/table_sync/table_sync.py pull copy.db http://localhost:4437/v1/stream/weather
    python examples/table_sync/table_sync.py show copy.db

`set` and `remove` change the table and record the change in an outbox, in one transaction. `push`
sends recorded changes, `pull` applies them. Each can be killed at any moment and run again:

- `push` sends a change with its number as Stream-Seq, and the server accepts each number once. So a
  change whose response was lost can be sent again.
- `pull` writes changes and the offset after them in one transaction. So the offset matches the
  copy, and `pull` resumes from there.
"""

import json
import sqlite3
import sys
from contextlib import suppress

from twisted.internet.defer import Deferred
from twisted.internet.task import react

from durable_streams_tw.client import RetryPolicy, SequenceConflict, StreamClient

JSON = "application/json"
TABLES = """
create table if not exists reading (city text primary key, degrees real not null);
create table if not exists change (number integer primary key autoincrement, body text not null);
create table if not exists place (stream text primary key, reached text not null);
"""


def opened(path):
    """Open a database and create its tables. ``with`` begins and ends a transaction."""
    database = sqlite3.connect(path)
    database.executescript(TABLES)
    return database


def apply(database, change):
    """Make a change to the table. A repetition has no effect."""
    if change["op"] == "set":
        row = (change["city"], change["degrees"])
        database.execute("insert or replace into reading values (?, ?)", row)
    else:
        database.execute("delete from reading where city = ?", (change["city"],))


def record(database, change):
    """Make a change to the table, and record it in the outbox."""
    with database:
        apply(database, change)
        database.execute("insert into change (body) values (?)", (json.dumps(change),))


async def push(stream, database):
    """Append the recorded changes, in order."""
    await stream.create(JSON)
    noted = database.execute("select number, body from change order by number").fetchall()
    for number, body in noted:
        # If an earlier run has appended this change, its number does not increase.
        with suppress(SequenceConflict):
            await stream.append(body, seq=f"{number:016d}")
        with database:
            database.execute("delete from change where number = ?", (number,))


async def pull(stream, database, live):
    """Apply the changes of the stream, and with ``live`` later ones too."""
    row = database.execute("select reached from place where stream = ?", (stream.url,)).fetchone()
    offset = row[0] if row else "-1"
    async for batch in stream.follow(offset) if live else stream.read(offset):
        with database:
            for change in batch.json():
                apply(database, change)
            # Within a long response there is no offset: after a crash, changes are applied again.
            if batch.offset is not None:
                row = (stream.url, batch.offset)
                database.execute("insert or replace into place values (?, ?)", row)


def main(reactor, *arguments):
    match arguments:
        case "set", path, city, degrees:
            record(opened(path), {"op": "set", "city": city, "degrees": float(degrees)})
        case "remove", path, city:
            record(opened(path), {"op": "remove", "city": city})
        case "show", path:
            for city, degrees in opened(path).execute("select * from reading order by city"):
                print(city, degrees)
        case ("push" | "pull" | "follow") as what, path, url:
            stream = StreamClient(retry=RetryPolicy(retry_for=None)).stream(url)
            database = opened(path)
            if what == "push":
                return Deferred.fromCoroutine(push(stream, database))
            return Deferred.fromCoroutine(pull(stream, database, what == "follow"))
        case _:
            sys.exit(__doc__)
    return Deferred.fromCoroutine(nothing())


async def nothing():
    """Do nothing: `set`, `remove` and `show` do not use the network."""


if __name__ == "__main__":
    react(main, sys.argv[1:])
