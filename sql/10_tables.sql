-- Tables. shard, mapping and edge are read by the output plugin while it decodes, under the snapshot of that moment of the
-- log: that is what user_catalog_table makes possible. Columns of type regclass and regrole are dumped as names, so
-- definitions survive pg_dump | restore into a cluster with other OIDs. What is dumped, and what is derived from it while it is
-- loaded, has no foreign keys: a parallel pg_restore loads an extension's tables at the same time, in any order. The functions that make
-- and remove shards and edges keep the tables in step; rows that a definition lacks for are of no effect.

CREATE SCHEMA foreshard;
COMMENT ON SCHEMA foreshard IS 'logical shards, their functions and edges, and the change stream for them';

CREATE SEQUENCE foreshard.generation AS bigint;

CREATE TABLE foreshard.shard (
    name            text COLLATE "C" PRIMARY KEY CHECK (octet_length(name) BETWEEN 1 AND 63),
    -- NULL for a query: see shard_query and shard_source.
    source          regclass,
    predicate       text,
    key             name[] NOT NULL,
    columns         name[],
    owner           regrole NOT NULL,
    generation      bigint NOT NULL DEFAULT nextval('foreshard.generation'),
    -- Derived from the columns above by the trigger foreshard.shard_derive, also when a dump is restored.
    predicate_tree  text,
    key_attnums     int2[],
    column_attnums  int2[],
    defect          text,
    -- By which a table that is dropped and made again is recognised.
    source_name     text
) WITH (user_catalog_table = true, toast_tuple_target = 8160);
-- A value moved to the TOAST table could be vacuumed before a lagging decoder reads it; create_shard refuses rows so large.
ALTER TABLE foreshard.shard ALTER predicate SET STORAGE MAIN, ALTER predicate_tree SET STORAGE MAIN,
    ALTER key SET STORAGE MAIN, ALTER columns SET STORAGE MAIN, ALTER key_attnums SET STORAGE MAIN,
    ALTER column_attnums SET STORAGE MAIN, ALTER defect SET STORAGE MAIN, ALTER source_name SET STORAGE MAIN;
COMMENT ON TABLE foreshard.shard IS 'definitions of logical shards; change them with create_shard and drop_shard only';

CREATE TABLE foreshard.shard_query (
    shard       text COLLATE "C" PRIMARY KEY,
    query       text NOT NULL,
    param_types regtype[] NOT NULL,
    -- Derived by the trigger foreshard.query_derive.
    query_tree  text
);
COMMENT ON TABLE foreshard.shard_query IS 'queries of shards that are not a table''s; change them with create_query_shard only';

CREATE TABLE foreshard.shard_source (
    shard          text COLLATE "C" NOT NULL,
    ordinal        int NOT NULL,
    source         regclass NOT NULL,
    source_name    text NOT NULL,
    key_attnums    int2[] NOT NULL,
    predicate      text,
    predicate_tree text,
    read_attnums   int2[],
    PRIMARY KEY (shard, ordinal)
) WITH (user_catalog_table = true, toast_tuple_target = 8160);
ALTER TABLE foreshard.shard_source ALTER source_name SET STORAGE MAIN, ALTER key_attnums SET STORAGE MAIN,
    ALTER predicate SET STORAGE MAIN, ALTER predicate_tree SET STORAGE MAIN, ALTER read_attnums SET STORAGE MAIN;
CREATE INDEX shard_source_source ON foreshard.shard_source (source);
COMMENT ON TABLE foreshard.shard_source IS 'what the query of a shard depends on, derived from its parse tree: one row for each place where it reads a table';
COMMENT ON COLUMN foreshard.shard_source.key_attnums IS
    'columns that hold the parameters, in their order: a row concerns the instance it names; empty if it may concern any';
COMMENT ON COLUMN foreshard.shard_source.predicate IS 'rows that do not satisfy it do not matter';
COMMENT ON COLUMN foreshard.shard_source.read_attnums IS 'an update of other columns does not matter; null: any may';

CREATE TABLE foreshard.mapping (
    function_id text COLLATE "C" NOT NULL CHECK (octet_length(function_id) BETWEEN 1 AND 256),
    ordinal     int NOT NULL,
    shard       text COLLATE "C" NOT NULL,
    PRIMARY KEY (function_id, shard)
) WITH (user_catalog_table = true);
CREATE INDEX mapping_shard ON foreshard.mapping (shard);
COMMENT ON TABLE foreshard.mapping IS 'which shards a function may read; change it with map_function and unmap_function only';

CREATE TABLE foreshard.edge (
    name       text COLLATE "C" PRIMARY KEY CHECK (octet_length(name) BETWEEN 1 AND 63),
    latitude   float8 CHECK (latitude BETWEEN -90 AND 90),
    longitude  float8 CHECK (longitude BETWEEN -180 AND 180),
    role       regrole,
    slot_name  text NOT NULL
) WITH (user_catalog_table = true);
COMMENT ON TABLE foreshard.edge IS 'edge locations; change them with create_edge and drop_edge only';

CREATE TABLE foreshard.hint (
    id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    function_id text COLLATE "C" NOT NULL CHECK (octet_length(function_id) BETWEEN 1 AND 256),
    edge        text COLLATE "C",
    cron        text NOT NULL,
    confidence  float8 NOT NULL CHECK (confidence BETWEEN 0 AND 1),
    declared_at timestamptz NOT NULL DEFAULT now(),
    declared_by name NOT NULL DEFAULT session_user
);
CREATE UNIQUE INDEX hint_declared ON foreshard.hint (function_id, coalesce(edge, ''), cron);
COMMENT ON TABLE foreshard.hint IS 'when functions are known to run; change it with hint_function and unhint_function only';

CREATE TABLE foreshard.schedules (
    id           bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    edge         text COLLATE "C" NOT NULL REFERENCES foreshard.edge ON DELETE CASCADE,
    starts_at    timestamptz NOT NULL,
    ends_at      timestamptz NOT NULL CHECK (ends_at > starts_at),
    entries      jsonb NOT NULL,
    published_at timestamptz NOT NULL DEFAULT now(),
    publisher    text NOT NULL DEFAULT current_setting('application_name')
);
CREATE INDEX schedules_edge ON foreshard.schedules (edge, ends_at);
COMMENT ON TABLE foreshard.schedules IS 'prefetch schedules as published; of two for one moment and edge the higher id is in force';
COMMENT ON COLUMN foreshard.schedules.publisher IS
    'the application_name of the session that published it; foreshard plan takes what others published into its own';

CREATE TABLE foreshard.advice (
    id        bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    made_at   timestamptz NOT NULL DEFAULT now(),
    subject   text NOT NULL,
    advice    text NOT NULL,
    statement text,
    evidence  jsonb NOT NULL DEFAULT '{}',
    kind        text,
    undo        text,
    applied_at  timestamptz,
    applied_by  name,
    reverted_at timestamptz
);
COMMENT ON TABLE foreshard.advice IS 'what the execution log says about the shard definitions, and the statement that would follow it';
COMMENT ON COLUMN foreshard.advice.undo IS 'the statement that takes it back';
COMMENT ON COLUMN foreshard.advice.applied_at IS 'when foreshard advise --apply ran the statement; it stands unless reverted_at is set';

-- Definitions are part of a dump. Schedules, log and advice are not: they carry transaction ids and windows of this cluster.
SELECT pg_catalog.pg_extension_config_dump('foreshard.generation', '');
SELECT pg_catalog.pg_extension_config_dump('foreshard.shard',
    'WHERE source IS NULL OR EXISTS (SELECT FROM pg_catalog.pg_class c WHERE c.oid = source)');
SELECT pg_catalog.pg_extension_config_dump('foreshard.shard_query', '');
SELECT pg_catalog.pg_extension_config_dump('foreshard.mapping',
    'WHERE EXISTS (SELECT FROM foreshard.shard s WHERE s.name = shard
        AND (s.source IS NULL OR EXISTS (SELECT FROM pg_catalog.pg_class c WHERE c.oid = s.source)))');
SELECT pg_catalog.pg_extension_config_dump('foreshard.edge', '');
SELECT pg_catalog.pg_extension_config_dump('foreshard.hint', '');
SELECT pg_catalog.pg_extension_config_dump('foreshard.hint_id_seq', '');
