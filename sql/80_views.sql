-- What people read.

CREATE VIEW foreshard.shards AS
    SELECT s.name, s.source, s.predicate, s.key, s.columns, s.owner, s.generation,
        CASE WHEN c.oid IS NULL THEN 'the source table is gone' ELSE s.defect END AS defect
    FROM foreshard.shard s LEFT JOIN pg_catalog.pg_class c ON c.oid = s.source;
COMMENT ON VIEW foreshard.shards IS 'logical shards; defect says what keeps a shard from being served';

CREATE VIEW foreshard.function_shards AS
    SELECT function_id, shard, ordinal FROM foreshard.mapping;
COMMENT ON VIEW foreshard.function_shards IS 'which shards each function may read';

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
