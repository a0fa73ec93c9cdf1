-- Functions of the library. None may be called by PUBLIC; create_edge grants an edge's role the ones it needs.

CREATE FUNCTION foreshard.version() RETURNS text
    LANGUAGE c IMMUTABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'version_wrapper';
COMMENT ON FUNCTION foreshard.version() IS 'version of the library that is loaded';

CREATE FUNCTION foreshard.commit_token() RETURNS pg_lsn
    LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'commit_token_wrapper';
COMMENT ON FUNCTION foreshard.commit_token() IS
    'at or behind the commit LSN of every transaction that this session knows of, already flushed: send it as Foreshard-Min-Lsn to read your own writes. The calling role needs USAGE on schema foreshard and EXECUTE on the function';

-- The settings that value output depends on are pinned, so that a fetched row has the same bytes whatever the session's are.
CREATE FUNCTION foreshard.fetch(edge text, instances text[]) RETURNS SETOF bytea
    LANGUAGE c VOLATILE
    SET search_path = pg_catalog, pg_temp
    SET datestyle = 'ISO, MDY' SET intervalstyle = 'postgres' SET timezone = 'UTC' SET extra_float_digits = 1
    SET bytea_output = 'hex' SET xmlbinary = 'base64' SET xmloption = 'content'
    SET lc_monetary = 'C' SET lc_numeric = 'C' SET lc_time = 'C'
    AS 'MODULE_PATHNAME', 'foreshard_fetch';
COMMENT ON FUNCTION foreshard.fetch(text, text[]) IS 'for sidecars: rows of shard instances, all in one snapshot, encoded';

CREATE FUNCTION foreshard.edge_catalog(edge text) RETURNS bytea
    LANGUAGE c VOLATILE SET search_path = pg_catalog, pg_temp
    AS 'MODULE_PATHNAME', 'edge_catalog_wrapper';
COMMENT ON FUNCTION foreshard.edge_catalog(text) IS 'for sidecars: all definitions and running schedules of an edge in one snapshot, encoded';

CREATE FUNCTION foreshard.edge_slot(edge text) RETURNS text
    LANGUAGE c VOLATILE SET search_path = pg_catalog, pg_temp
    AS 'MODULE_PATHNAME', 'edge_slot_wrapper';
COMMENT ON FUNCTION foreshard.edge_slot(text) IS 'for sidecars: the name of the replication slot that the edge uses';

CREATE FUNCTION foreshard.nudge(edge text) RETURNS pg_lsn
    LANGUAGE c VOLATILE SET search_path = pg_catalog, pg_temp
    AS 'MODULE_PATHNAME', 'nudge_wrapper';
COMMENT ON FUNCTION foreshard.nudge(text) IS 'for sidecars: writes and flushes an empty message, so that a stream on an idle server moves; the position behind it';

CREATE FUNCTION foreshard.log_executions(edge text, batch jsonb) RETURNS bigint
    LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'log_executions_wrapper';
COMMENT ON FUNCTION foreshard.log_executions(text, jsonb) IS 'for sidecars: appends to foreshard.executions; how many rows';

-- Helpers of the functions below; only their owner may call them.
CREATE FUNCTION foreshard.slot_failures(slot text)
    RETURNS TABLE (shard text, generation bigint, rows bigint, state text, last_us bigint)
    LANGUAGE c VOLATILE STRICT SET search_path = pg_catalog, pg_temp
    AS 'MODULE_PATHNAME', 'slot_failures_wrapper';
COMMENT ON FUNCTION foreshard.slot_failures(text) IS
    'how many changed rows the stream of a slot came across on which a shard''s predicate raised an error, the last SQLSTATE, and when that was committed in µs since 1970';

CREATE FUNCTION foreshard.fetch_failures(slot text)
    RETURNS TABLE (shard text, generation bigint, state text, last_us bigint)
    LANGUAGE c VOLATILE STRICT SET search_path = pg_catalog, pg_temp
    AS 'MODULE_PATHNAME', 'fetch_failures_wrapper';
COMMENT ON FUNCTION foreshard.fetch_failures(text) IS
    'shards of which the edge of a slot could not read an instance and has not read it since: the SQLSTATE, and when that was in µs since 1970';

CREATE FUNCTION foreshard.cron_fault(cron text) RETURNS text
    LANGUAGE c IMMUTABLE STRICT SET search_path = pg_catalog, pg_temp
    AS 'MODULE_PATHNAME', 'cron_fault_wrapper';
COMMENT ON FUNCTION foreshard.cron_fault(text) IS 'what is wrong with a cron expression of a hint; NULL if nothing is';

CREATE FUNCTION foreshard.compile_predicate(source oid, predicate text, role oid)
    RETURNS TABLE (tree text, canonical text, attnums int2[])
    LANGUAGE c VOLATILE STRICT SET search_path = pg_catalog, pg_temp
    AS 'MODULE_PATHNAME', 'compile_predicate_as_wrapper';
COMMENT ON FUNCTION foreshard.compile_predicate(oid, text, oid) IS
    'parses and checks a shard predicate with the rights of the shard''s owner: its expression tree, its text as PostgreSQL would write it, and the columns it reads';

CREATE FUNCTION foreshard.predicate_text(source oid, tree text) RETURNS text
    LANGUAGE c STABLE STRICT SET search_path = pg_catalog, pg_temp
    AS 'MODULE_PATHNAME', 'predicate_text_wrapper';
COMMENT ON FUNCTION foreshard.predicate_text(oid, text) IS 'a shard predicate with the column names of now';

CREATE FUNCTION foreshard.tree_again(tree text) RETURNS text
    LANGUAGE c STABLE STRICT SET search_path = pg_catalog, pg_temp
    AS 'MODULE_PATHNAME', 'tree_again_wrapper';
COMMENT ON FUNCTION foreshard.tree_again(text) IS
    'the tree of a predicate or query, read and written: the same, but for places in the text, unless it is of another major version';

CREATE FUNCTION foreshard.compile_query(query text, types oid[], role oid)
    RETURNS TABLE (tree text, source oid, key_attnums int2[], predicate text, predicate_tree text, read_attnums int2[])
    LANGUAGE c VOLATILE STRICT SET search_path = pg_catalog, pg_temp
    AS 'MODULE_PATHNAME', 'compile_query_wrapper';
COMMENT ON FUNCTION foreshard.compile_query(text, oid[], oid) IS
    'parses and checks a shard''s query with the rights of the shard''s owner: its tree, and a row for each place where it reads a table';

CREATE FUNCTION foreshard.query_text(tree text) RETURNS text
    LANGUAGE c STABLE STRICT SET search_path = pg_catalog, pg_temp
    AS 'MODULE_PATHNAME', 'query_text_wrapper';
COMMENT ON FUNCTION foreshard.query_text(text) IS 'a shard''s query with the names of now';

CREATE FUNCTION foreshard.instance_shard(instance text) RETURNS text
    LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'instance_shard_wrapper';
COMMENT ON FUNCTION foreshard.instance_shard(text) IS 'the shard that a shard instance id names, NULL if the text is not one';

CREATE FUNCTION foreshard.instance_fault(instance text, shard text, key text[], mapped boolean) RETURNS text
    LANGUAGE c IMMUTABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'instance_fault_wrapper';
COMMENT ON FUNCTION foreshard.instance_fault(text, text, text[], boolean) IS
    'what is wrong with a shard instance id, given the shard it names (NULL if there is none); NULL if nothing';

CREATE FUNCTION foreshard.instance_spelled(instance text, types oid[], typmods int4[]) RETURNS text
    LANGUAGE c STABLE STRICT SET search_path = pg_catalog, pg_temp AS 'MODULE_PATHNAME', 'instance_spelled_wrapper';
COMMENT ON FUNCTION foreshard.instance_spelled(text, oid[], int4[]) IS
    'a shard instance id with key values of these types as fetches and the stream write them, NULL if one is no value of its type';

CREATE FUNCTION foreshard.instance_misfit(instance text, types oid[], typmods int4[]) RETURNS text
    LANGUAGE c STABLE STRICT SET search_path = pg_catalog, pg_temp AS 'MODULE_PATHNAME', 'instance_misfit_wrapper';
COMMENT ON FUNCTION foreshard.instance_misfit(text, oid[], int4[]) IS
    'the first key column of a shard instance id whose value is not of its type, NULL if there is none';
