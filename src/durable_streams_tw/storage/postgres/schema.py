"""Tables of the PostgreSQL store, and the number of their format.

All tables are in one schema, which connections put into their ``search_path``.

==============  ==============================================================================
table           contents
==============  ==============================================================================
`meta`          format of the tables, and the oldest format that a program may know
`registry`      counts changes of which subscriptions there are; least id of this copy
`node`          number of the last batch of each committer of each node
`ids`           sequence of stream ids and subscription numbers; a node takes `ID_BLOCK` at once
`stream`        `StreamRecord` of each stream; when the sweep checks it; source of a fork
`chunk`         flags (`codec`) and bytes of a stream from a position
`producer`      generation and state of each producer of a stream
`garbage`       ended streams and subscriptions, and old generations of producers, to delete
`subscription`  `Subscription`, and which node acts for it until when (`due`, `until` in ms)
`link`          `ExplicitLink` by number and stream
`cursor`        `Cursor` by number and stream
`secret`        signing keys, which all nodes share; progress of a move into the schema
==============  ==============================================================================

There are no foreign keys: they would lock rows outside the order of `locks`. The rows of `stream`
and `producer` are updated in place most of the time; a fill factor leaves room for that, and vacuum
does not wait long. The bytes of `chunk` are not compressed: PostgreSQL would try it in vain for
each row of bytes that are compressed already. Unlike records of the durable store, rows have no
checksums of their own; those of PostgreSQL's data pages take their place.
"""

from __future__ import annotations

from typing import Final

FORMAT: Final = 1
"""Number of the layout. `MIGRATIONS` has one entry for each."""

COMPATIBLE: Final = 1
"""Oldest format whose programs can use this layout beside newer ones."""

ID_BLOCK: Final = 1024
"""Ids that a node takes from the sequence at once."""

MOVE_MARK: Final = "move"
"""Name of the secret that marks a schema into which a store is being moved."""

_UPDATED: Final = """WITH (fillfactor = 60, autovacuum_vacuum_scale_factor = 0.02,
  autovacuum_vacuum_cost_delay = 0)"""

_FORMAT_1: Final = f"""
CREATE TABLE meta (
  one        boolean PRIMARY KEY DEFAULT true CHECK (one),
  format     integer NOT NULL,
  compatible integer NOT NULL,
  version    text    NOT NULL,
  created_at bigint  NOT NULL
);
CREATE TABLE registry (
  one     boolean PRIMARY KEY DEFAULT true CHECK (one),
  version bigint NOT NULL DEFAULT 0,
  lineage bigint NOT NULL DEFAULT 0,
  history text   NOT NULL DEFAULT ''
);
CREATE TABLE node (
  name      text COLLATE "C" NOT NULL,
  committer smallint    NOT NULL,
  batch     bigint      NOT NULL,
  heartbeat timestamptz NOT NULL,
  version   text        NOT NULL,
  PRIMARY KEY (name, committer)
);
CREATE SEQUENCE ids AS bigint INCREMENT {ID_BLOCK};
CREATE TABLE stream (
  id     bigint PRIMARY KEY,
  path   text COLLATE "C" NOT NULL,
  record bytea NOT NULL,
  due    bigint,
  source bigint
) {_UPDATED};
CREATE UNIQUE INDEX stream_path ON stream (path);
CREATE INDEX stream_due ON stream (due) WHERE due IS NOT NULL;
CREATE TABLE chunk (
  stream_id bigint   NOT NULL,
  position  bigint   NOT NULL,
  flags     smallint NOT NULL,
  data      bytea    NOT NULL,
  PRIMARY KEY (stream_id, position)
) WITH (autovacuum_vacuum_insert_scale_factor = 0.1);
ALTER TABLE chunk ALTER data SET STORAGE EXTERNAL;
CREATE TABLE producer (
  stream_id  bigint NOT NULL,
  name       bytea  NOT NULL,
  generation bigint NOT NULL,
  epoch      bigint NOT NULL,
  last_seq   bigint NOT NULL,
  PRIMARY KEY (stream_id, name)
) {_UPDATED};
CREATE TABLE garbage (
  id         bigint NOT NULL,
  generation bigint NOT NULL,
  PRIMARY KEY (id, generation)
);
CREATE TABLE subscription (
  key    bytea PRIMARY KEY,
  record bytea NOT NULL,
  due    bigint,
  node   text,
  until  bigint
) {_UPDATED};
CREATE INDEX subscription_due ON subscription (due) WHERE due IS NOT NULL;
CREATE TABLE link (key bytea PRIMARY KEY, record bytea NOT NULL);
CREATE TABLE cursor (key bytea PRIMARY KEY, record bytea NOT NULL);
CREATE TABLE secret (name text PRIMARY KEY, value bytea NOT NULL);
INSERT INTO registry DEFAULT VALUES;
"""

MIGRATIONS: Final = (_FORMAT_1,)
"""Statements that make each format from the one before, the first from an empty schema.

A migration only adds: programs of the format before run beside newer ones during an upgrade.
Something is removed by the migration of a later release, together with a greater `COMPATIBLE`.
"""
