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

from twisted.internet.defer import Deferred
from twisted.internet.task import react
from twisted.web.client import Agent

from durable_streams_tw.client.errors import OutcomeUnknown, Rejected
from durable_streams_tw.client.follow import catch_up, follow
from durable_streams_tw.client.streams import StreamClient
from durable_streams_tw.client.transport import Wire
from durable_streams_tw.client.urls import target_of

JSON = "application/json"
TABLES = """
create table if not exists reading (city text primary key, degrees real not null);
create table if not exists change (number integer primary key autoincrement, body text not null);
create table if not exists place (stream text primary key, reached text not null);
"""


def opened(path):
    """A database with the tables. Transactions are begun and ended by ``with``."""
    database = sqlite3.connect(path)
    database.executescript(TABLES)
    return database


def apply(database, change):
    """Make a change to the table. Making it twice is making it once."""
    if change["op"] == "set":
        row = (change["city"], change["degrees"])
        database.execute("insert or replace into reading values (?, ?)", row)
    else:
        database.execute("delete from reading where city = ?", (change["city"],))


def record(database, change):
    """Make a change here, and note it for the others."""
    with database:
        apply(database, change)
        database.execute("insert into change (body) values (?)", (json.dumps(change),))


async def push(client, database, target):
    """Send the changes that are noted, in their order."""
    await client.create(target, JSON)
    noted = database.execute("select number, body from change order by number").fetchall()
    for number, body in noted:
        await send(client, target, f"{number:016d}", body)
        with database:
            database.execute("delete from change where number = ?", (number,))


async def send(client, target, number, body):
    """Append one change, once: its number is in the stream or it is not."""
    while True:
        try:
            await client.append(target, body.encode(), JSON, seq=number)
            return
        except OutcomeUnknown:
            # Send it again: if it is there, the server says so.
            await client.pause(0.5)
        except Rejected as refused:
            # We are the only one who writes, with numbers that only rise.
            if refused.status == 409 and not refused.closed:
                return
            raise


async def pull(client, database, target, live):
    """Apply what the stream has, and with ``live`` what comes."""
    row = database.execute("select reached from place where stream = ?", (target.url,)).fetchone()
    offset = row[0] if row else "-1"
    async for batch in (follow if live else catch_up)(client, target, offset):
        with database:
            for message in batch.messages():
                apply(database, json.loads(message))
            database.execute(
                "insert or replace into place values (?, ?)", (target.url, batch.offset)
            )


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
            client = StreamClient(Wire(Agent(reactor, connectTimeout=10), reactor), endure=None)
            target, database = target_of(url), opened(path)
            if what == "push":
                return Deferred.fromCoroutine(push(client, database, target))
            return Deferred.fromCoroutine(pull(client, database, target, what == "follow"))
        case _:
            sys.exit(__doc__)
    return Deferred.fromCoroutine(nothing())


async def nothing():
    """What did not need the network is done."""


if __name__ == "__main__":
    react(main, sys.argv[1:])
