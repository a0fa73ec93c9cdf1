-- Predicates and queries that raise errors on rows; a part of health(), see 85_health.sql.

CREATE FUNCTION foreshard.health_failures() RETURNS TABLE ("check" text, status text, detail text, fix text)
    LANGUAGE sql VOLATILE SET search_path = pg_catalog, pg_temp
    AS $$
        -- Every edge's stream decodes the same rows: the one that has come furthest tells most.
        SELECT 'predicate of shard ' || quote_ident(s.name), 'warn',
            format('it failed on %s changed rows in the stream of edge %s, last with SQLSTATE %s in a transaction of %s; such rows count as perhaps in the shard',
                f.rows, quote_ident(f.edge), f.state, date_trunc('second', to_timestamp(f.last_us / 1000000.0))),
            format(CASE WHEN s.source IS NULL
                THEN 'SELECT foreshard.create_query_shard(%L, …, or_replace => true) with conditions that hold or not, but never fail: CASE, nullif(), coalesce()'
                ELSE 'SELECT foreshard.create_shard(%L, …, or_replace => true) with a predicate that holds or not, but never fails: CASE, nullif(), coalesce()' END, s.name)
        FROM foreshard.shard s CROSS JOIN LATERAL (
            SELECT e.name AS edge, f.* FROM foreshard.edge e, LATERAL foreshard.slot_failures(e.slot_name) f
            WHERE f.shard = s.name AND f.generation = s.generation ORDER BY f.rows DESC, e.name LIMIT 1) AS f
        ORDER BY s.name
    $$;
COMMENT ON FUNCTION foreshard.health_failures() IS 'the part of health() about predicates that fail on rows';

-- Rows that were there before the shard are on no stream: what tells of them is that they can't be fetched. Nothing is tried here, which would
-- read tables as large as they are with rights that the caller lacks.
CREATE FUNCTION foreshard.health_fetches() RETURNS TABLE ("check" text, status text, detail text, fix text)
    LANGUAGE sql VOLATILE SET search_path = pg_catalog, pg_temp
    AS $$
        SELECT 'fetches of shard ' || quote_ident(s.name), 'fail',
            format('edge %s could not read an instance, with SQLSTATE %s, at %s: functions get broken-shard instead of its rows',
                quote_ident(f.edge), f.state, date_trunc('second', to_timestamp(f.last_us / 1000000.0))),
            CASE WHEN s.source IS NULL
                THEN format('SELECT foreshard.create_query_shard(%L, …, or_replace => true) with expressions that never fail: CASE, nullif(), coalesce(); or change the rows that they fail on', s.name)
                WHEN s.predicate IS NOT NULL
                THEN format('SELECT foreshard.create_shard(%L, …, or_replace => true) with a predicate that holds or not, but never fails: CASE, nullif(), coalesce(); or change the rows that it fails on', s.name)
                ELSE format('SELECT foreshard.create_shard(%L, …, or_replace => true) with columns that can be read; or change the rows that can''t be', s.name) END
        FROM foreshard.shard s CROSS JOIN LATERAL (
            SELECT e.name AS edge, f.* FROM foreshard.edge e, LATERAL foreshard.fetch_failures(e.slot_name) f
            WHERE f.shard = s.name AND f.generation = s.generation
                -- What nobody has asked for since may have been mended.
                AND f.last_us > extract(epoch FROM now() - interval '1 day') * 1000000
            ORDER BY f.last_us DESC, e.name LIMIT 1) AS f
        ORDER BY s.name
    $$;
COMMENT ON FUNCTION foreshard.health_fetches() IS 'the part of health() about shards that could not be read';
