-- What people read.

CREATE VIEW foreshard.shards AS
    SELECT s.name, s.source, s.predicate, s.key, s.columns, s.owner, s.generation,
        CASE WHEN s.source IS NULL THEN coalesce(
                (SELECT pg_catalog.format('table %s is gone', d.source_name) FROM foreshard.shard_source d
                    WHERE d.shard = s.name AND NOT EXISTS (SELECT FROM pg_catalog.pg_class c WHERE c.oid = d.source) LIMIT 1),
                s.defect,
                CASE WHEN q.query_tree IS NULL OR NOT EXISTS (SELECT FROM foreshard.shard_source d WHERE d.shard = s.name)
                    THEN 'what its query reads was not derived when it was restored' END)
            WHEN c.oid IS NULL THEN 'the source table is gone'
            WHEN s.defect IS NULL AND s.predicate IS NOT NULL AND s.predicate_tree IS NULL
                THEN 'its predicate was not derived when it was restored: SELECT foreshard.rederive()'
            ELSE s.defect END AS defect,
        q.query,
        CASE WHEN s.source IS NULL THEN (
                SELECT pg_catalog.jsonb_agg(pg_catalog.jsonb_build_object('table', d.source_name, 'rows', d.predicate, 'key',
                        (SELECT pg_catalog.jsonb_agg(a.attname ORDER BY n.ordinality)
                            FROM pg_catalog.unnest(d.key_attnums) WITH ORDINALITY AS n(attnum, ordinality)
                            JOIN pg_catalog.pg_attribute a ON a.attrelid = d.source AND a.attnum = n.attnum),
                        'columns', CASE WHEN d.read_attnums IS NOT NULL THEN pg_catalog.to_jsonb(ARRAY(
                            SELECT a.attname FROM pg_catalog.pg_attribute a
                            WHERE a.attrelid = d.source AND a.attnum = ANY (d.read_attnums) ORDER BY a.attnum)) END)
                    ORDER BY d.ordinal)
                FROM foreshard.shard_source d WHERE d.shard = s.name)
            ELSE pg_catalog.jsonb_build_array(pg_catalog.jsonb_build_object('table', s.source_name, 'rows', s.predicate, 'key',
                CASE WHEN s.key <> '{}' THEN pg_catalog.to_jsonb(s.key) END, 'columns', pg_catalog.to_jsonb(s.columns)))
            END AS depends_on
    FROM foreshard.shard s LEFT JOIN pg_catalog.pg_class c ON c.oid = s.source
    LEFT JOIN foreshard.shard_query q ON q.shard = s.name;
COMMENT ON VIEW foreshard.shards IS 'logical shards; defect says what keeps a shard from being served';
COMMENT ON COLUMN foreshard.shards.depends_on IS
    'tables whose changes concern the shard: of which rows (null: all), by which columns the instance is told (null: it can''t be), and which columns it reads or shows (null: all)';

CREATE VIEW foreshard.function_shards AS
    SELECT function_id, shard, ordinal FROM foreshard.mapping;
COMMENT ON VIEW foreshard.function_shards IS 'which shards each function may read';

CREATE VIEW foreshard.hints AS
    SELECT id, function_id, edge, cron, confidence, declared_at, declared_by FROM foreshard.hint;
COMMENT ON VIEW foreshard.hints IS 'when functions are known to run; edge is null for all of them';

CREATE VIEW foreshard.edges AS
    SELECT e.name, e.latitude, e.longitude, e.role, e.slot_name,
        r.active, r.wal_status,
        CASE WHEN NOT pg_catalog.pg_is_in_recovery()
            THEN pg_catalog.pg_wal_lsn_diff(pg_catalog.pg_current_wal_lsn(), r.restart_lsn)::bigint END AS retained_wal_bytes,
        r.confirmed_flush_lsn AS last_applied_lsn
    FROM foreshard.edge e
    LEFT JOIN pg_catalog.pg_replication_slots r
        ON r.slot_name = e.slot_name AND r.plugin = 'foreshard' AND r.database = pg_catalog.current_database();
COMMENT ON VIEW foreshard.edges IS 'edge locations, the log their slots hold back and how far they have applied it';
