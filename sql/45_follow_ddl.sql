-- Definitions follow renamed and retyped columns, as views do, and a table that is dropped and made again. Column numbers and the
-- expression tree are what counts while decoding; names and text are what people see and what a dump carries.

CREATE FUNCTION foreshard.names_of(source oid, attnums int2[], before name[]) RETURNS name[]
    LANGUAGE sql STABLE STRICT SET search_path = pg_catalog, pg_temp
    AS $$
        SELECT coalesce(array_agg(coalesce(a.attname, n.name) ORDER BY n.ordinality), '{}')
        FROM unnest(attnums, before) WITH ORDINALITY AS n(attnum, name, ordinality)
        LEFT JOIN pg_attribute a ON a.attrelid = source AND a.attnum = n.attnum AND NOT a.attisdropped
    $$;
COMMENT ON FUNCTION foreshard.names_of(oid, int2[], name[]) IS 'names of columns by number; the name before for one that is gone';

CREATE FUNCTION foreshard.follow_table(altered oid) RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
    AS $$
    DECLARE
        shard foreshard.shard;
        new_key name[];
        new_columns name[];
        new_predicate text;
        new_tree text;
    BEGIN
        -- The name alone is no other definition: the generation stays. Looked for first: an UPDATE of nothing takes a lock as well.
        IF EXISTS (SELECT FROM foreshard.shard s WHERE s.source = altered AND s.source_name IS DISTINCT FROM foreshard.qualified_name(altered)) THEN
            UPDATE foreshard.shard s SET source_name = foreshard.qualified_name(altered)
                WHERE s.source = altered AND s.source_name IS DISTINCT FROM foreshard.qualified_name(altered);
        END IF;
        FOR shard IN SELECT * FROM foreshard.shard s WHERE s.source = altered
        LOOP
            new_key := coalesce(foreshard.names_of(altered, shard.key_attnums, shard.key), shard.key);
            new_columns := coalesce(foreshard.names_of(altered, shard.column_attnums, shard.columns), shard.columns);
            new_predicate := shard.predicate;
            new_tree := NULL;
            IF shard.predicate IS NOT NULL THEN
                BEGIN
                    IF shard.predicate_tree IS NOT NULL THEN
                        new_predicate := foreshard.predicate_text(altered, shard.predicate_tree);
                    END IF;
                    SELECT p.tree INTO STRICT new_tree FROM foreshard.compile_predicate(altered, new_predicate, shard.owner) AS p;
                EXCEPTION WHEN lock_not_available OR deadlock_detected OR serialization_failure THEN
                    RAISE;
                WHEN OTHERS THEN
                    -- The trigger on the table finds the same and keeps it as the shard's defect.
                    new_predicate := shard.predicate;
                END;
            END IF;
            CONTINUE WHEN (new_key, new_columns, new_predicate, new_tree,
                    foreshard.attnums_of(altered, new_key), foreshard.attnums_of(altered, new_columns)) IS NOT DISTINCT FROM
                (shard.key, shard.columns, shard.predicate, shard.predicate_tree, shard.key_attnums, shard.column_attnums);
            -- Somebody may just have given it to another table.
            UPDATE foreshard.shard s SET key = new_key, columns = new_columns, predicate = new_predicate, generation = DEFAULT
                WHERE s.name = shard.name AND s.source = altered;
        END LOOP;
    END
    $$;
COMMENT ON FUNCTION foreshard.follow_table(oid) IS 'brings the shards of a table up to date after its columns were renamed or retyped';

CREATE FUNCTION foreshard.take_over(made oid) RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
    AS $$
    DECLARE
        shard foreshard.shard;
    BEGIN
        FOR shard IN SELECT * FROM foreshard.shard s WHERE s.source_name = foreshard.qualified_name(made)
            AND NOT EXISTS (SELECT FROM pg_class c WHERE c.oid = s.source)
        LOOP
            BEGIN
                PERFORM foreshard.check_definition(shard.owner, made, shard.predicate, shard.key, shard.columns);
                UPDATE foreshard.shard s SET source = made, generation = DEFAULT WHERE s.name = shard.name AND s.source = shard.source;
            EXCEPTION WHEN lock_not_available OR deadlock_detected OR serialization_failure THEN
                RAISE;
            WHEN OTHERS THEN
                RAISE WARNING 'shard % does not fit the new table %: %', quote_ident(shard.name), made::regclass, SQLERRM
                    USING HINT = 'Redefine it with foreshard.create_shard(…, or_replace => true), or drop it.';
            END;
        END LOOP;
    END
    $$;
COMMENT ON FUNCTION foreshard.take_over(oid) IS 'gives the shards of a table that was dropped to a new one of the same name, if they fit';

CREATE FUNCTION foreshard.follow_query(followed text) RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
    AS $$
    DECLARE
        kept foreshard.shard_query;
        before text := foreshard.query_state(followed);
        renamed text;
        same boolean := false;
    BEGIN
        SELECT * INTO STRICT kept FROM foreshard.shard_query q WHERE q.shard = followed;
        renamed := kept.query;
        BEGIN
            renamed := coalesce(foreshard.query_text(kept.query_tree), kept.query);
            SELECT renamed = kept.query AND jsonb_agg(jsonb_build_array(c.tree, c.source, foreshard.qualified_name(c.source),
                        c.key_attnums, c.predicate, c.predicate_tree, c.read_attnums) ORDER BY c.ordinality)
                    = (SELECT jsonb_agg(jsonb_build_array(kept.query_tree, d.source::oid, d.source_name,
                            d.key_attnums, d.predicate, d.predicate_tree, d.read_attnums) ORDER BY d.ordinal)
                        FROM foreshard.shard_source d WHERE d.shard = followed)
                    AND (SELECT s.defect IS NULL FROM foreshard.shard s WHERE s.name = followed) INTO same
                FROM foreshard.compile_query(renamed, kept.param_types::oid[], (SELECT s.owner FROM foreshard.shard s WHERE s.name = followed))
                    WITH ORDINALITY c;
            IF same THEN
                PERFORM foreshard.check_source(d.source) FROM foreshard.shard_source d WHERE d.shard = followed;
            END IF;
        EXCEPTION WHEN lock_not_available OR deadlock_detected OR serialization_failure THEN
            RAISE;
        WHEN OTHERS THEN
            -- A table or column is gone, or of another type. The text as it was may fit again; the trigger finds out.
            renamed := kept.query;
            same := false;
        END;
        -- Every row that is written has every edge's stream read all definitions again.
        IF same THEN
            RETURN;
        END IF;
        UPDATE foreshard.shard_query q SET query = renamed WHERE q.shard = followed;
        IF foreshard.query_state(followed) IS DISTINCT FROM before THEN
            UPDATE foreshard.shard s SET generation = DEFAULT WHERE s.name = followed;
        END IF;
    END
    $$;
COMMENT ON FUNCTION foreshard.follow_query(text) IS 'brings a query shard up to date after something that it reads was altered or renamed';

CREATE FUNCTION foreshard.follow_ddl() RETURNS event_trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    SET datestyle = 'ISO, MDY' SET intervalstyle = 'postgres' SET timezone = 'UTC' SET extra_float_digits = 1
    SET bytea_output = 'hex' SET xmlbinary = 'base64' SET xmloption = 'content' SET lc_monetary = 'C'
    SET quote_all_identifiers = off SET standard_conforming_strings = on SET array_nulls = on SET transform_null_equals = off
    AS $$
    DECLARE
        altered oid;
        followed text;
        -- Tables that the command made or altered, with their partitions: what is done to the columns of a table is done to those as well.
        -- Temporary tables are no shard's. Found before the definitions are looked at, which may be thousands.
        touched oid[];
        named text[];
        -- The workers of a parallel restore have a table locked each, and would wait for each other here until some lose their statement.
        -- What they alter gives nothing another name.
        restoring constant boolean := current_setting('application_name') = 'pg_restore';
        patience constant text := current_setting('lock_timeout');
    BEGIN
        IF restoring THEN
            PERFORM set_config('lock_timeout', '10ms', true);
        END IF;
        -- Whoever defines with a schema or type does not lock it, as he does tables.
        IF tg_tag IN ('ALTER SCHEMA', 'ALTER TYPE', 'ALTER DOMAIN') THEN
            LOCK TABLE foreshard.shard IN SHARE UPDATE EXCLUSIVE MODE;
        END IF;
        SELECT array_agg(r.oid), array_agg(foreshard.qualified_name(r.oid)) INTO touched, named FROM pg_event_trigger_ddl_commands() c
            JOIN pg_class t ON t.oid = c.objid AND t.relkind IN ('r', 'p') AND t.relpersistence <> 't',
            LATERAL (SELECT c.objid UNION SELECT p.relid FROM pg_partition_tree(c.objid) p) AS r(oid)
            WHERE c.classid = 'pg_class'::regclass;
        IF touched IS NULL AND tg_tag NOT IN ('ALTER SCHEMA', 'ALTER TYPE', 'ALTER DOMAIN', 'GRANT') THEN
            PERFORM set_config('lock_timeout', patience, true);
            RETURN;
        END IF;
        FOR altered IN SELECT r.oid FROM unnest(touched, named) AS r(oid, name)
                WHERE r.oid IN (SELECT s.source FROM foreshard.shard s) OR r.name IN (SELECT s.source_name FROM foreshard.shard s)
            -- Schemas, types and labels of enums are named in predicates.
            UNION SELECT s.source::oid FROM foreshard.shard s JOIN pg_class c ON c.oid = s.source
                WHERE tg_tag IN ('ALTER SCHEMA', 'ALTER TYPE', 'ALTER DOMAIN') AND s.predicate IS NOT NULL
                -- A dump restores rights last, after definitions that are parsed with them.
                OR tg_tag = 'GRANT' AND s.defect IS NOT NULL
        LOOP
            PERFORM foreshard.take_over(altered);
            PERFORM foreshard.follow_table(altered);
        END LOOP;
        -- Schemas and types are named in any query.
        FOR followed IN SELECT q.shard FROM foreshard.shard_query q JOIN foreshard.shard s ON s.name = q.shard
            WHERE tg_tag IN ('ALTER SCHEMA', 'ALTER TYPE', 'ALTER DOMAIN') OR tg_tag = 'GRANT' AND (s.defect IS NOT NULL OR q.query_tree IS NULL) OR EXISTS (
                SELECT FROM foreshard.shard_source d WHERE d.shard = q.shard AND (d.source = ANY (touched) OR d.source_name = ANY (named)))
            -- What never fitted says nothing of what it reads.
            OR s.defect IS NOT NULL AND NOT EXISTS (SELECT FROM foreshard.shard_source d WHERE d.shard = q.shard)
        LOOP
            PERFORM foreshard.follow_query(followed);
        END LOOP;
        PERFORM set_config('lock_timeout', patience, true);
    EXCEPTION WHEN lock_not_available OR deadlock_detected OR serialization_failure THEN
        IF NOT restoring THEN
            RAISE;
        END IF;
        RAISE WARNING 'a shard definition could not follow: %', SQLERRM USING HINT = 'SELECT foreshard.rederive() once the dump is restored.';
    WHEN OTHERS THEN
        -- Nobody's ALTER TABLE fails because of a shard, but for a wait that ended in nothing, after which it can be repeated. The stream
        -- invalidates the shard in any case.
        RAISE WARNING 'a shard definition could not follow: %', SQLERRM;
    END
    $$;
COMMENT ON FUNCTION foreshard.follow_ddl() IS 'called after tables were made or altered, after schemas and types were altered, and after rights were granted';
CREATE EVENT TRIGGER foreshard_follow_ddl ON ddl_command_end 
    WHEN TAG IN ('ALTER TABLE', 'CREATE TABLE', 'CREATE TABLE AS', 'SELECT INTO', 'ALTER SCHEMA', 'ALTER TYPE', 'ALTER DOMAIN', 'GRANT')
    EXECUTE FUNCTION foreshard.follow_ddl();
-- Also for those who alter tables as a replica: definitions are not replicated.
ALTER EVENT TRIGGER foreshard_follow_ddl ENABLE ALWAYS;
COMMENT ON EVENT TRIGGER foreshard_follow_ddl IS 'keeps shard definitions in step with their tables';
