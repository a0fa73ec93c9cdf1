-- The execution log. It is a ring of segments: a segment holds the thirtieth part of the retention, and 32 of them are enough
-- for the log to come round to one only when everything in it is due. So old rows go by TRUNCATE of a segment that nobody
-- writes to, and no partition is ever made, attached or dropped: nothing for log shipping to wait for, nothing for a dump.

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
