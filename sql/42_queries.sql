-- Shards that are a query over several tables. What is dumped is the query as PostgreSQL writes it, with every name qualified, and the
-- types of its parameters; what follows from them is derived, as for other shards.

CREATE FUNCTION foreshard.create_query_shard(name text, query text, params name[] DEFAULT NULL,
        or_replace boolean DEFAULT false, if_not_exists boolean DEFAULT false)
    RETURNS void LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'foreshard_create_query_shard';
COMMENT ON FUNCTION foreshard.create_query_shard(text, text, name[], boolean, boolean) IS
    'defines a logical shard as a SELECT over tables; its parameters $1, $2 … are named by params and make it keyed';

CREATE FUNCTION foreshard.query_state(shard text) RETURNS text
    LANGUAGE sql STABLE STRICT SET search_path = pg_catalog, pg_temp
    AS $$
        SELECT jsonb_build_array(s.defect, q.query, q.param_types::oid[], (
            SELECT jsonb_agg(jsonb_build_array(d.source::oid, d.source_name, d.key_attnums, d.predicate) ORDER BY d.ordinal)
            FROM foreshard.shard_source d WHERE d.shard = s.name))::text
        FROM foreshard.shard s JOIN foreshard.shard_query q ON q.shard = s.name WHERE s.name = query_state.shard
    $$;
COMMENT ON FUNCTION foreshard.query_state(text) IS 'everything about a query shard that a copy of it depends on';

-- The settings: see shard_derive.
CREATE FUNCTION foreshard.query_derive() RETURNS trigger
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
    SET datestyle = 'ISO, MDY' SET intervalstyle = 'postgres' SET timezone = 'UTC' SET extra_float_digits = 1
    SET bytea_output = 'hex' SET xmlbinary = 'base64' SET xmloption = 'content' SET lc_monetary = 'C'
    SET quote_all_identifiers = off SET standard_conforming_strings = on SET array_nulls = on SET transform_null_equals = off
    AS $$
    DECLARE
        found record;
        at int := 0;
        problem text;
    BEGIN
        -- A parallel restore may load this before the shard: foreshard.shards calls it a defect, and rederive() mends it.
        BEGIN
            NEW.query_tree := NULL;
            DELETE FROM foreshard.shard_source d WHERE d.shard = NEW.shard;
            FOR found IN SELECT * FROM foreshard.compile_query(NEW.query, NEW.param_types::oid[],
                (SELECT s.owner FROM foreshard.shard s WHERE s.name = NEW.shard))
            LOOP
                PERFORM foreshard.check_source(found.source);
                -- A row so large would be moved out of the table; see 10_tables.sql.
                IF pg_column_size(found.predicate_tree) + octet_length(found.predicate) > 5000 THEN
                    found.predicate := NULL;
                    found.predicate_tree := NULL;
                END IF;
                NEW.query_tree := found.tree;
                at := at + 1;
                INSERT INTO foreshard.shard_source (shard, ordinal, source, source_name, key_attnums, predicate, predicate_tree,
                        read_attnums)
                    VALUES (NEW.shard, at, found.source, foreshard.qualified_name(found.source), found.key_attnums,
                        found.predicate, found.predicate_tree, found.read_attnums);
            END LOOP;
        EXCEPTION WHEN lock_not_available OR deadlock_detected OR serialization_failure THEN
            RAISE;
        WHEN OTHERS THEN
            -- As with predicates: what no longer fits is kept, with the reason. What was derived before stays in force.
            problem := left(SQLERRM, 500);
            NEW.query_tree := CASE TG_OP WHEN 'UPDATE' THEN OLD.query_tree END;
        END;
        UPDATE foreshard.shard s SET defect = problem WHERE s.name = NEW.shard AND s.defect IS DISTINCT FROM problem;
        RETURN NEW;
    END
    $$;
CREATE TRIGGER derive BEFORE INSERT OR UPDATE ON foreshard.shard_query
    FOR EACH ROW EXECUTE FUNCTION foreshard.query_derive();
ALTER TABLE foreshard.shard_query ENABLE ALWAYS TRIGGER derive;

CREATE FUNCTION foreshard.check_params(params name[], types regtype[]) RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
    AS $$
    DECLARE
        wrong text;
    BEGIN
        IF array_ndims(params) > 1 OR array_position(params, NULL) IS NOT NULL THEN
            RAISE EXCEPTION 'params must be a plain list of names without NULL' USING ERRCODE = 'null_value_not_allowed';
        END IF;
        IF cardinality(params) > 8 THEN
            RAISE EXCEPTION 'a query shard has at most 8 params, not %', cardinality(params) USING ERRCODE = 'too_many_arguments';
        END IF;
        SELECT p INTO wrong FROM unnest(params) p GROUP BY p HAVING count(*) > 1 LIMIT 1;
        IF FOUND THEN
            RAISE EXCEPTION '% is named twice in params', quote_ident(wrong) USING ERRCODE = 'duplicate_object';
        END IF;
        SELECT p INTO wrong FROM unnest(params) p WHERE p IN ('', 'select', 'order', 'limit', 'offset', 'and', 'or', 'not') LIMIT 1;
        IF FOUND THEN
            RAISE EXCEPTION '% can''t be the name of a parameter', quote_ident(wrong) USING ERRCODE = 'invalid_name',
                HINT = 'It has a meaning of its own in requests for rows.';
        END IF;
        SELECT format_type(t.oid, NULL) INTO wrong FROM pg_type t WHERE t.oid = ANY (types::oid[]) AND t.typtype <> 'e' AND t.oid <> ALL (
            '{int2,int4,int8,oid,bool,text,varchar,bpchar,name,uuid,date,timestamp,timestamptz,numeric,float4,float8}'::regtype[]) LIMIT 1;
        IF FOUND THEN
            RAISE EXCEPTION 'a parameter can''t be of type %', wrong USING ERRCODE = 'feature_not_supported',
                HINT = 'Types of parameters: smallint, integer, bigint, oid, boolean, text, varchar, char, name, uuid, date, timestamp, timestamptz, numeric, real, double precision and enums. Pass it as text and cast it in the query.';
        END IF;
    END
    $$;
COMMENT ON FUNCTION foreshard.check_params(name[], regtype[]) IS 'refuses names and types that parameters of a query can''t have';

CREATE FUNCTION foreshard.define_query(caller regrole, name text, tree text, types oid[], params name[],
        or_replace boolean, if_not_exists boolean)
    RETURNS void LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
    SET datestyle = 'ISO, MDY' SET intervalstyle = 'postgres' SET timezone = 'UTC' SET extra_float_digits = 1
    SET bytea_output = 'hex' SET xmlbinary = 'base64' SET xmloption = 'content' SET lc_monetary = 'C'
    SET quote_all_identifiers = off SET standard_conforming_strings = on SET array_nulls = on SET transform_null_equals = off
    AS $$
    DECLARE
        old foreshard.shard;
        kept foreshard.shard_query;
        query text;
        problem text;
        source regclass;
    BEGIN
        IF name IS NULL OR tree IS NULL OR or_replace IS NULL OR if_not_exists IS NULL THEN
            RAISE EXCEPTION 'name, query, or_replace and if_not_exists must not be NULL' USING ERRCODE = 'null_value_not_allowed';
        END IF;
        IF octet_length(name) NOT BETWEEN 1 AND 63 THEN
            RAISE EXCEPTION 'a shard''s name has 1 to 63 bytes' USING ERRCODE = 'invalid_name';
        END IF;
        IF or_replace AND if_not_exists THEN
            RAISE EXCEPTION 'or_replace and if_not_exists exclude each other' USING ERRCODE = 'invalid_parameter_value';
        END IF;
        params := coalesce(params, '{}');
        types := coalesce(types, '{}');
        PERFORM foreshard.check_params(params, types::regtype[]);
        query := foreshard.query_text(tree);

        -- The tables are locked already: the query was analysed. See define_shard for the rest.
        LOCK TABLE foreshard.shard IN SHARE UPDATE EXCLUSIVE MODE;
        SELECT * INTO old FROM foreshard.shard s WHERE s.name = define_query.name;
        IF FOUND AND if_not_exists THEN
            RAISE NOTICE 'shard % already exists, skipping', quote_ident(name);
            RETURN;
        ELSIF FOUND AND NOT or_replace THEN
            RAISE EXCEPTION 'shard % already exists', quote_ident(name) USING ERRCODE = 'duplicate_object',
                HINT = 'Pass or_replace => true to redefine it.';
        ELSIF FOUND AND NOT pg_has_role(caller, old.owner, 'USAGE') THEN
            RAISE EXCEPTION 'must be owner of shard %', quote_ident(name) USING ERRCODE = 'insufficient_privilege';
        END IF;
        -- For its errors, which are the caller's to see; the trigger would only note them.
        FOR source IN SELECT DISTINCT c.source FROM foreshard.compile_query(query, types, caller) c
        LOOP
            PERFORM foreshard.check_source(source);
        END LOOP;

        SELECT * INTO kept FROM foreshard.shard_query q WHERE q.shard = define_query.name;
        IF FOUND AND old.defect IS NULL AND (old.owner, old.key, kept.query, kept.param_types::oid[]) = (caller, params, query, types) THEN
            RETURN;
        END IF;
        IF old.name IS NULL THEN
            PERFORM foreshard.forget_shard(name);
            INSERT INTO foreshard.shard (name, source, key, owner) VALUES (name, NULL, params, caller);
        ELSE
            DELETE FROM foreshard.shard_query q WHERE q.shard = old.name;
            UPDATE foreshard.shard s SET source = NULL, source_name = NULL, predicate = NULL, predicate_tree = NULL, columns = NULL,
                    key = params, key_attnums = NULL, column_attnums = NULL, defect = NULL, owner = caller, generation = DEFAULT
                WHERE s.name = old.name;
        END IF;
        INSERT INTO foreshard.shard_query (shard, query, param_types) VALUES (name, query, types::regtype[]);
        SELECT s.defect INTO problem FROM foreshard.shard s WHERE s.name = define_query.name;
        IF problem IS NOT NULL THEN
            RAISE EXCEPTION 'shard % can''t be defined: %', quote_ident(name), problem USING ERRCODE = 'invalid_object_definition';
        END IF;
    END
    $$;
COMMENT ON FUNCTION foreshard.define_query(regrole, text, text, oid[], name[], boolean, boolean) IS 'create_query_shard in the name of caller';
