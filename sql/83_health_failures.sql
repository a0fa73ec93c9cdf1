-- Predicates that raise errors on rows; a part of health(), see 85_health.sql.

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
