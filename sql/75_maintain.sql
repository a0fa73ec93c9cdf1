-- Upkeep of the execution log.

CREATE FUNCTION foreshard.set_log_retention(retention interval) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
    BEGIN
        IF retention IS NULL THEN
            RAISE EXCEPTION 'retention must not be NULL' USING ERRCODE = 'null_value_not_allowed';
        END IF;
        IF retention NOT BETWEEN interval '1 hour' AND interval '10 years' THEN
            RAISE EXCEPTION 'retention is between 1 hour and 10 years' USING ERRCODE = 'invalid_parameter_value';
        END IF;
        INSERT INTO foreshard.log_policy (retention) VALUES (set_log_retention.retention)
            ON CONFLICT (one) DO UPDATE SET retention = excluded.retention;
    END
    $$;
COMMENT ON FUNCTION foreshard.set_log_retention(interval) IS 'sets how long executions are kept, 1 hour to 10 years; 90 days if it was never set';

CREATE FUNCTION foreshard.maintain() RETURNS TABLE (relation regclass, action text)
    LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET lock_timeout = '1s'
    AS $$
    DECLARE
        retention constant interval := foreshard.log_retention();
        due constant timestamptz := now() - retention;
        current constant int2 := foreshard.log_segment();
        number int2;
        kept boolean;
        removed bigint;
    BEGIN
        IF NOT pg_try_advisory_xact_lock(hashtextextended('foreshard maintain', 0)) THEN
            RETURN; -- another session is at it
        END IF;
        FOR number IN 0 .. 31 LOOP
            relation := format('foreshard.executions_%s', lpad(number::text, 2, '0'))::regclass;
            BEGIN
                -- A glance first: a lock is taken only where there is something to do.
                EXECUTE format('SELECT EXISTS (SELECT FROM %s WHERE logged_at >= $1) OR NOT EXISTS (SELECT FROM %1$s)', relation)
                    INTO kept USING due;
                IF NOT kept AND number <> current THEN
                    EXECUTE format('LOCK TABLE %s IN ACCESS EXCLUSIVE MODE', relation);
                    EXECUTE format('SELECT EXISTS (SELECT FROM %s WHERE logged_at >= $1)', relation) INTO kept USING due;
                    IF NOT kept THEN
                        EXECUTE format('TRUNCATE %s', relation);
                        action := 'emptied';
                        RETURN NEXT;
                        CONTINUE;
                    END IF;
                END IF;
                -- What came into the segment under another retention, or in a former round that nobody cleared up after.
                EXECUTE format('DELETE FROM %s WHERE logged_at < $1', relation) USING due - retention / 30;
                GET DIAGNOSTICS removed = ROW_COUNT;
                IF removed > 0 THEN
                    action := format('%s rows deleted', removed);
                    RETURN NEXT;
                END IF;
            EXCEPTION WHEN lock_not_available THEN
                action := 'in use, left for the next call';
                RETURN NEXT;
            END;
        END LOOP;
    END
    $$;
COMMENT ON FUNCTION foreshard.maintain() IS
    'removes executions that are past their retention; call it every hour, as foreshard plan does. What was done, by segment';

CREATE FUNCTION foreshard.health_log() RETURNS TABLE ("check" text, status text, detail text, fix text)
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
    AS $$
        SELECT 'execution log', CASE WHEN overdue THEN 'warn' ELSE 'ok' END,
            format('%s of executions, kept for %s%s', pg_size_pretty(size), foreshard.log_retention(),
                CASE WHEN overdue THEN '; some are older, because nobody calls maintain()' ELSE '' END),
            CASE WHEN overdue THEN 'SELECT * FROM foreshard.maintain(); -- and let foreshard plan or cron do it every hour' END
        FROM (SELECT
            (SELECT sum(pg_total_relation_size(relid)) FROM pg_partition_tree('foreshard.executions')) AS size,
            -- One segment comes due at a time, and maintain() is called every hour.
            EXISTS (SELECT FROM foreshard.executions
                WHERE logged_at < now() - foreshard.log_retention() - foreshard.log_retention() / 30 - interval '2 hours') AS overdue) AS l
    $$;
COMMENT ON FUNCTION foreshard.health_log() IS 'the part of health() about the execution log';

CREATE FUNCTION foreshard.said_now(kept text, tree text, source oid, types oid[], owner oid) RETURNS text
    LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp
    AS $$
    DECLARE
        places constant text := ':(location|stmt_location|stmt_len) -?\d+';
        says text;
    BEGIN
        -- The tree of another major may be read as something else. One that is read rightly comes out as it went in.
        IF regexp_replace(foreshard.tree_again(tree), places, '', 'g') IS DISTINCT FROM regexp_replace(tree, places, '', 'g') THEN
            RETURN kept;
        END IF;
        -- Parsing it locks the tables, which comes before the lock of the definition's row.
        IF source IS NOT NULL THEN
            says := foreshard.predicate_text(source, tree);
            PERFORM foreshard.compile_predicate(source, says, owner);
        ELSE
            says := foreshard.query_text(tree);
            PERFORM foreshard.compile_query(says, types, owner);
        END IF;
        RETURN coalesce(says, kept);
    EXCEPTION WHEN lock_not_available OR deadlock_detected OR serialization_failure THEN
        RAISE;
    WHEN OTHERS THEN
        RETURN kept;
    END
    $$;
COMMENT ON FUNCTION foreshard.said_now(text, text, oid, oid[], oid) IS
    'a predicate of a table, or a query without one, with the names of now if its tree tells them, otherwise as it was kept';

-- Expression trees are of one major version. A dump carries text only; pg_upgrade takes the tables as they are.
CREATE FUNCTION foreshard.rederive() RETURNS void
    LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp
    SET datestyle = 'ISO, MDY' SET intervalstyle = 'postgres' SET timezone = 'UTC' SET extra_float_digits = 1
    SET bytea_output = 'hex' SET xmlbinary = 'base64' SET xmloption = 'content' SET lc_monetary = 'C'
    SET quote_all_identifiers = off SET standard_conforming_strings = on SET array_nulls = on SET transform_null_equals = off
    AS $$
    DECLARE
        shard record;
        says text;
    BEGIN
        LOCK TABLE foreshard.shard IN SHARE UPDATE EXCLUSIVE MODE;
        FOR shard IN SELECT * FROM foreshard.shard s WHERE s.source IS NOT NULL ORDER BY s.name
        LOOP
            says := foreshard.said_now(shard.predicate, shard.predicate_tree, shard.source, NULL, shard.owner);
            UPDATE foreshard.shard s SET predicate = says,
                    key = coalesce(foreshard.names_of(shard.source, shard.key_attnums, shard.key), shard.key),
                    columns = coalesce(foreshard.names_of(shard.source, shard.column_attnums, shard.columns), shard.columns),
                    generation = CASE WHEN foreshard.names_of(shard.source, shard.key_attnums, shard.key) <> shard.key
                            OR foreshard.names_of(shard.source, shard.column_attnums, shard.columns) <> shard.columns
                        THEN nextval('foreshard.generation') ELSE s.generation END
                -- What was altered meanwhile has been brought up to date.
                WHERE s.name = shard.name AND s.generation = shard.generation;
        END LOOP;
        FOR shard IN SELECT q.*, s.owner, q.query_tree IS NULL OR NOT EXISTS (SELECT FROM foreshard.shard_source d WHERE d.shard = q.shard) AS underived
            FROM foreshard.shard_query q JOIN foreshard.shard s ON s.name = q.shard ORDER BY q.shard
        LOOP
            says := foreshard.said_now(shard.query, shard.query_tree, NULL, shard.param_types::oid[], shard.owner);
            UPDATE foreshard.shard_query q SET query = says WHERE q.shard = shard.shard AND q.query = shard.query;
            -- Edges that heard of it meanwhile heard of no change.
            IF shard.underived THEN
                UPDATE foreshard.shard s SET generation = DEFAULT WHERE s.name = shard.shard;
            END IF;
        END LOOP;
    END
    $$;
COMMENT ON FUNCTION foreshard.rederive() IS 'derives anew what follows from the definitions: once after pg_upgrade and after a parallel pg_restore, and where health() says that a definition names what is now called otherwise';

CREATE FUNCTION foreshard.health_derived() RETURNS TABLE ("check" text, status text, detail text, fix text)
    LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp
    AS $$
    BEGIN
        PERFORM foreshard.predicate_text(s.source, s.predicate_tree) FROM foreshard.shard s JOIN pg_class c ON c.oid = s.source;
        PERFORM foreshard.query_text(q.query_tree) FROM foreshard.shard_query q JOIN foreshard.shards s ON s.name = q.shard WHERE s.defect IS NULL;
        PERFORM foreshard.predicate_text(d.source, d.predicate_tree) FROM foreshard.shard_source d JOIN foreshard.shards s ON s.name = d.shard
            WHERE s.defect IS NULL;
    EXCEPTION WHEN OTHERS THEN
        RETURN QUERY SELECT 'definitions', 'fail', 'definitions were derived by another major version of PostgreSQL', 'SELECT foreshard.rederive()';
    END
    $$;
COMMENT ON FUNCTION foreshard.health_derived() IS 'the part of health() about what pg_upgrade leaves behind';

CREATE FUNCTION foreshard.health_remains() RETURNS TABLE ("check" text, status text, detail text, fix text)
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
    AS $$
        SELECT 'shard ' || quote_ident(r.shard), 'warn', 'it does not exist, and there are mappings or a query of it, which are of no effect',
            format('SELECT foreshard.drop_shard(%L, if_exists => true)', r.shard)
        FROM (SELECT m.shard FROM foreshard.mapping m UNION SELECT q.shard FROM foreshard.shard_query q
            UNION SELECT d.shard FROM foreshard.shard_source d) AS r
        WHERE NOT EXISTS (SELECT FROM foreshard.shard s WHERE s.name = r.shard)
        UNION ALL
        SELECT DISTINCT 'edge ' || quote_ident(h.edge), 'warn', 'it does not exist, and there are hints for it, which are of no effect',
            format('SELECT foreshard.drop_edge(%L, if_exists => true)', h.edge)
        FROM foreshard.hint h WHERE h.edge IS NOT NULL AND NOT EXISTS (SELECT FROM foreshard.edge e WHERE e.name = h.edge)
    $$;
COMMENT ON FUNCTION foreshard.health_remains() IS 'the part of health() about what a dump that was restored in part leaves behind';
