\echo Use "ALTER EXTENSION foreshard UPDATE TO '0.2.0'" to load this file. \quit

-- The execution log becomes a ring of segments. What was logged moves along, with the rights people gave on it.

ALTER TABLE foreshard.executions RENAME TO executions_before;
ALTER SEQUENCE foreshard.executions_id_seq RENAME TO executions_before_id_seq;
DROP INDEX foreshard.executions_logged, foreshard.executions_started;
DO $$
    DECLARE
        held name;
    BEGIN
        FOR held IN SELECT conname FROM pg_catalog.pg_constraint WHERE conrelid = 'foreshard.executions_before'::regclass LOOP
            EXECUTE pg_catalog.format('ALTER TABLE foreshard.executions_before RENAME CONSTRAINT %I TO %I', held, 'before_' || held);
        END LOOP;
    END
    $$;

CREATE TABLE foreshard.log_policy (
    one       boolean PRIMARY KEY DEFAULT true CHECK (one),
    retention interval NOT NULL CHECK (retention BETWEEN '1 hour' AND '10 years')
);
COMMENT ON TABLE foreshard.log_policy IS 'how long executions are kept, if set; change it with set_log_retention only';

CREATE FUNCTION foreshard.log_retention() RETURNS interval
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
    AS $$ SELECT coalesce((SELECT retention FROM foreshard.log_policy), interval '90 days') $$;
COMMENT ON FUNCTION foreshard.log_retention() IS 'how long executions are kept';

CREATE FUNCTION foreshard.log_segment() RETURNS int2
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
    AS $$ SELECT (floor(extract(epoch FROM now()) / (extract(epoch FROM foreshard.log_retention()) / 30))::bigint % 32)::int2 $$;
COMMENT ON FUNCTION foreshard.log_segment() IS 'the segment of the execution log that is written to now';

CREATE TABLE foreshard.executions (
    id          bigint GENERATED ALWAYS AS IDENTITY,
    edge        text COLLATE "C" NOT NULL,
    function_id text COLLATE "C" NOT NULL,
    started_at  timestamptz NOT NULL,
    tables      text[] NOT NULL,
    filters     jsonb NOT NULL,
    shards      text[] NOT NULL,
    served_from text NOT NULL CHECK (served_from IN ('prefetch', 'reactive', 'origin', 'error')),
    wait_us     bigint NOT NULL CHECK (wait_us >= 0),
    bytes       bigint NOT NULL CHECK (bytes >= 0),
    logged_xid  xid8 NOT NULL DEFAULT pg_current_xact_id(),
    logged_at   timestamptz NOT NULL DEFAULT now(),
    segment     int2 NOT NULL DEFAULT foreshard.log_segment(),
    PRIMARY KEY (logged_xid, id, segment)
) PARTITION BY LIST (segment);
CREATE INDEX executions_times ON foreshard.executions USING brin (started_at, logged_at);
COMMENT ON TABLE foreshard.executions IS 'execution log of edge functions, shipped in batches by the edges; maintain() keeps it within its retention';
COMMENT ON COLUMN foreshard.executions.logged_xid IS
    'an incremental reader takes rows below pg_snapshot_xmin(pg_current_snapshot()) in (logged_xid, id) order and misses none';
COMMENT ON COLUMN foreshard.executions.logged_at IS 'when the row was written, by the clock of this server: retention counts from here';

DO $$
    BEGIN
        FOR segment IN 0 .. 31 LOOP
            EXECUTE format('CREATE TABLE foreshard.executions_%s PARTITION OF foreshard.executions FOR VALUES IN (%s)',
                lpad(segment::text, 2, '0'), segment);
        END LOOP;
    END
    $$;

-- The log itself is no part of a dump: it carries transaction ids of this cluster.
SELECT pg_catalog.pg_extension_config_dump('foreshard.log_policy', '');

INSERT INTO foreshard.executions (id, edge, function_id, started_at, tables, filters, shards, served_from, wait_us, bytes, logged_xid)
    OVERRIDING SYSTEM VALUE
    SELECT id, edge, function_id, started_at, tables, filters, shards, served_from, wait_us, bytes, logged_xid
    FROM foreshard.executions_before;
SELECT pg_catalog.setval('foreshard.executions_id_seq', coalesce(max(id), 0) + 1, false) FROM foreshard.executions_before;

REVOKE ALL ON foreshard.executions FROM PUBLIC;
DO $$
    DECLARE
        own constant aclitem[] := (SELECT initprivs FROM pg_catalog.pg_init_privs
            WHERE objoid = 'foreshard.executions'::regclass AND classoid = 'pg_catalog.pg_class'::regclass AND objsubid = 0);
        given record;
    BEGIN
        FOR given IN SELECT a.* FROM pg_catalog.pg_class c, LATERAL pg_catalog.aclexplode(c.relacl) a
            WHERE c.oid = 'foreshard.executions_before'::regclass AND a.grantee <> c.relowner
        LOOP
            EXECUTE pg_catalog.format('GRANT %s ON foreshard.executions TO %s%s', given.privilege_type,
                CASE given.grantee WHEN 0 THEN 'PUBLIC' ELSE given.grantee::regrole::text END,
                CASE WHEN given.is_grantable THEN ' WITH GRANT OPTION' ELSE '' END);
        END LOOP;
        -- A grant made in an extension's script counts as the extension's own, and would be left out of dumps.
        UPDATE pg_catalog.pg_init_privs SET initprivs = own
            WHERE objoid = 'foreshard.executions'::regclass AND classoid = 'pg_catalog.pg_class'::regclass AND objsubid = 0;
    END
    $$;
DROP TABLE foreshard.executions_before;

-- A parallel pg_restore loads an extension's tables in any order.

ALTER TABLE foreshard.mapping DROP CONSTRAINT mapping_shard_fkey;

-- Shards that are a query.

ALTER TABLE foreshard.shard ALTER source DROP NOT NULL;

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

SELECT pg_catalog.pg_extension_config_dump('foreshard.shard',
    'WHERE source IS NULL OR EXISTS (SELECT FROM pg_catalog.pg_class c WHERE c.oid = source)');
SELECT pg_catalog.pg_extension_config_dump('foreshard.shard_query', '');
SELECT pg_catalog.pg_extension_config_dump('foreshard.mapping',
    'WHERE EXISTS (SELECT FROM foreshard.shard s WHERE s.name = shard
        AND (s.source IS NULL OR EXISTS (SELECT FROM pg_catalog.pg_class c WHERE c.oid = s.source)))');

-- What was advised, done and taken back.

ALTER TABLE foreshard.advice ADD kind text, ADD undo text, ADD applied_at timestamptz, ADD applied_by name, ADD reverted_at timestamptz;

-- What schedules are worth.

CREATE TABLE foreshard.schedule_quality (
    edge                text COLLATE "C" NOT NULL REFERENCES foreshard.edge ON DELETE CASCADE,
    hour                timestamptz NOT NULL,
    decisions           bigint NOT NULL,
    came_true           bigint NOT NULL,
    brier               float8 NOT NULL,
    ece                 float8 NOT NULL,
    scheduled           bigint NOT NULL,
    scheduled_runs      bigint NOT NULL,
    scheduled_misses    bigint NOT NULL,
    scheduled_wait_us   bigint NOT NULL,
    control             bigint NOT NULL,
    control_runs        bigint NOT NULL,
    control_misses      bigint NOT NULL,
    control_wait_us     bigint NOT NULL,
    uplift              float8 GENERATED ALWAYS AS (1 - (scheduled_misses::float8 / nullif(scheduled_runs, 0))
                            / nullif(control_misses::float8 / nullif(control_runs, 0), 0)) STORED,
    wasted_bytes        bigint NOT NULL,
    PRIMARY KEY (edge, hour)
);

CREATE TABLE foreshard.control_group (
    edge        text COLLATE "C" NOT NULL REFERENCES foreshard.edge ON DELETE CASCADE,
    function_id text COLLATE "C" NOT NULL,
    starts_at   timestamptz NOT NULL,
    ends_at     timestamptz NOT NULL,
    confidence  float8 NOT NULL,
    PRIMARY KEY (edge, function_id, starts_at)
);
CREATE INDEX control_group_ends ON foreshard.control_group (ends_at);

-- When functions are known to run, and who published a schedule.

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
SELECT pg_catalog.pg_extension_config_dump('foreshard.hint', '');
SELECT pg_catalog.pg_extension_config_dump('foreshard.hint_id_seq', '');

-- What was published so far is the planner's, as far as anybody knows.
ALTER TABLE foreshard.schedules ADD publisher text NOT NULL DEFAULT 'foreshard plan';
ALTER TABLE foreshard.schedules ALTER publisher SET DEFAULT current_setting('application_name');

-- Predicates are parsed with the rights of whoever defined them.
DROP FUNCTION foreshard.compile_predicate(oid, text);

-- xtask: functions, views, triggers and comments of sql/ follow

-- PUBLIC loses what is new. Not REVOKE ON ALL: it would take rights that people gave for the extension's own.
DO $$
    DECLARE
        fresh record;
    BEGIN
        FOR fresh IN SELECT p.oid::regprocedure AS name FROM pg_catalog.pg_proc p,
                LATERAL pg_catalog.aclexplode(coalesce(p.proacl, pg_catalog.acldefault('f', p.proowner))) a
            WHERE p.pronamespace = 'foreshard'::regnamespace AND a.grantee = 0
        LOOP
            EXECUTE pg_catalog.format('REVOKE ALL ON FUNCTION %s FROM PUBLIC', fresh.name);
        END LOOP;
        FOR fresh IN SELECT c.oid::regclass AS name, CASE c.relkind WHEN 'S' THEN 'SEQUENCE' ELSE 'TABLE' END AS kind FROM pg_catalog.pg_class c
            WHERE c.relnamespace = 'foreshard'::regnamespace AND c.relkind IN ('r', 'p', 'v', 'S') AND c.relacl IS NULL
        LOOP
            EXECUTE pg_catalog.format('REVOKE ALL ON %s %s FROM PUBLIC', fresh.kind, fresh.name);
        END LOOP;
    END
    $$;
