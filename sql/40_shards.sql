-- Shards. The function that people call is in C: it only notes who calls and runs the one that does the work as the owner of
-- the extension. A SECURITY DEFINER function can't see its caller through another one, and the caller becomes the shard's owner.

CREATE FUNCTION foreshard.create_shard(name text, source regclass, predicate text DEFAULT NULL, key name[] DEFAULT NULL,
        columns name[] DEFAULT NULL, or_replace boolean DEFAULT false, if_not_exists boolean DEFAULT false)
    RETURNS void LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'foreshard_create_shard';
COMMENT ON FUNCTION foreshard.create_shard(text, regclass, text, name[], name[], boolean, boolean) IS
    'defines a logical shard: a table or partition, its rows that match predicate, or one instance per distinct key';

CREATE FUNCTION foreshard.drop_shard(name text, if_exists boolean DEFAULT false)
    RETURNS void LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'foreshard_drop_shard';
COMMENT ON FUNCTION foreshard.drop_shard(text, boolean) IS 'removes a shard and its mappings';

CREATE FUNCTION foreshard.check_source(source regclass) RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
    AS $$
    DECLARE
        class record;
        part record;
    BEGIN
        SELECT c.*, n.nspname INTO class FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = source;
        IF NOT FOUND THEN
            RAISE EXCEPTION 'relation with OID % does not exist', source::oid USING ERRCODE = 'undefined_table';
        END IF;
        IF class.relkind NOT IN ('r', 'p') THEN
            RAISE EXCEPTION '% is %, and a shard needs a table', source,
                CASE class.relkind WHEN 'v' THEN 'a view' WHEN 'm' THEN 'a materialized view' WHEN 'f' THEN 'a foreign table'
                    WHEN 'S' THEN 'a sequence' WHEN 'i' THEN 'an index' WHEN 'I' THEN 'an index'
                    WHEN 'c' THEN 'a composite type' ELSE 'no table' END
                USING ERRCODE = 'wrong_object_type',
                    HINT = 'Define the shard on the table that holds the rows: its changes are in the write-ahead log.';
        END IF;
        IF source::oid < 16384 OR class.nspname IN ('pg_catalog', 'information_schema', 'pg_toast', 'foreshard') THEN
            RAISE EXCEPTION '% is a system table', source USING ERRCODE = 'wrong_object_type',
                HINT = 'Define the shard on a table of your own.';
        END IF;
        IF class.relpersistence = 't' THEN
            RAISE EXCEPTION '% is a temporary table', source USING ERRCODE = 'feature_not_supported',
                HINT = 'Changes of temporary tables are not logged. Use a permanent table.';
        ELSIF class.relpersistence = 'u' THEN
            RAISE EXCEPTION '% is an unlogged table', source USING ERRCODE = 'feature_not_supported',
                HINT = format('Its changes are not in the write-ahead log. ALTER TABLE %s SET LOGGED', source);
        END IF;
        IF class.relrowsecurity THEN
            RAISE EXCEPTION '% has row-level security', source USING ERRCODE = 'feature_not_supported',
                HINT = format('A copy would not follow its policies. Share a table without them, or ALTER TABLE %s DISABLE ROW LEVEL SECURITY', source);
        END IF;
        IF class.relkind = 'r' AND EXISTS (SELECT FROM pg_inherits WHERE inhparent = source) THEN
            RAISE EXCEPTION '% is an inheritance parent', source USING ERRCODE = 'feature_not_supported',
                HINT = 'Define shards on its children, or use declarative partitioning.';
        END IF;
        FOR part IN SELECT c.oid::regclass AS name, c.relkind, c.relpersistence
            FROM pg_partition_tree(source) t JOIN pg_class c ON c.oid = t.relid
            WHERE c.relkind NOT IN ('r', 'p') OR c.relpersistence <> 'p'
        LOOP
            RAISE EXCEPTION 'partition % of % is %', part.name, source,
                CASE WHEN part.relkind = 'f' THEN 'a foreign table' ELSE 'not logged' END
                USING ERRCODE = 'feature_not_supported', HINT = 'Every partition must be a permanent table of this server.';
        END LOOP;
    END
    $$;
COMMENT ON FUNCTION foreshard.check_source(regclass) IS 'refuses what no shard can be defined on';

CREATE FUNCTION foreshard.check_key(source regclass, key name[]) RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
    AS $$
    DECLARE
        col record;
    BEGIN
        IF cardinality(key) > 4 THEN
            RAISE EXCEPTION 'a shard has at most 4 key columns, not %', cardinality(key) USING ERRCODE = 'too_many_columns';
        END IF;
        FOR col IN
            WITH RECURSIVE base AS (
                SELECT a.attname, a.attcollation, a.attgenerated, t.oid, t.typtype, t.typbasetype, t.typname
                FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid
                WHERE a.attrelid = source AND a.attname = ANY (key) AND a.attnum > 0 AND NOT a.attisdropped
                UNION ALL
                SELECT b.attname, b.attcollation, b.attgenerated, t.oid, t.typtype, t.typbasetype, t.typname
                FROM base b JOIN pg_type t ON t.oid = b.typbasetype WHERE b.typtype = 'd'
            )
            SELECT b.*, coalesce(c.collisdeterministic, true) AS deterministic
            FROM base b LEFT JOIN pg_collation c ON c.oid = b.attcollation WHERE b.typtype <> 'd'
        LOOP
            IF col.typtype <> 'e' AND col.oid <> ALL ('{int2,int4,int8,oid,bool,text,varchar,bpchar,name,uuid,date,timestamp,timestamptz}'::regtype[]) THEN
                RAISE EXCEPTION 'column % of type % can''t be a shard key', quote_ident(col.attname), col.typname
                    USING ERRCODE = 'feature_not_supported',
                        HINT = 'Equal values must have one text. Key types: smallint, integer, bigint, oid, boolean, text, varchar, char, name, uuid, date, timestamp, timestamptz and enums.';
            END IF;
            IF NOT col.deterministic THEN
                RAISE EXCEPTION 'column % has a nondeterministic collation and can''t be a shard key', quote_ident(col.attname)
                    USING ERRCODE = 'feature_not_supported', HINT = 'Equal values must have one text.';
            END IF;
            IF col.attgenerated = 'v' THEN
                RAISE EXCEPTION 'column % is a virtual generated column and can''t be a shard key', quote_ident(col.attname)
                    USING ERRCODE = 'feature_not_supported', HINT = 'Its values are not in the write-ahead log; make it STORED.';
            END IF;
        END LOOP;
    END
    $$;
COMMENT ON FUNCTION foreshard.check_key(regclass, name[]) IS 'refuses key columns whose values have no single canonical text';

CREATE FUNCTION foreshard.check_columns(source regclass, names name[], what text) RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
    AS $$
    DECLARE
        missing name;
    BEGIN
        IF array_ndims(names) > 1 OR array_position(names, NULL) IS NOT NULL THEN
            RAISE EXCEPTION '% must be a plain list of column names without NULL', what USING ERRCODE = 'null_value_not_allowed';
        END IF;
        SELECT n INTO missing FROM unnest(names) n WHERE NOT EXISTS (SELECT FROM pg_attribute a
            WHERE a.attrelid = source AND a.attname = n AND a.attnum > 0 AND NOT a.attisdropped) LIMIT 1;
        IF FOUND THEN
            RAISE EXCEPTION 'column % of % does not exist', quote_ident(missing), source USING ERRCODE = 'undefined_column',
                HINT = format('%s names columns of the source table, without quotes and in their exact case.', what);
        END IF;
        SELECT n INTO missing FROM unnest(names) n GROUP BY n HAVING count(*) > 1 LIMIT 1;
        IF FOUND THEN
            RAISE EXCEPTION 'column % is named twice in %', quote_ident(missing), what USING ERRCODE = 'duplicate_column';
        END IF;
    END
    $$;
COMMENT ON FUNCTION foreshard.check_columns(regclass, name[], text) IS 'refuses names that are not columns of the table';

CREATE FUNCTION foreshard.check_select(caller regrole, source regclass, attnums int2[]) RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
    AS $$
    DECLARE
        denied name;
    BEGIN
        IF NOT has_schema_privilege(caller, (SELECT relnamespace FROM pg_class WHERE oid = source), 'USAGE') THEN
            RAISE EXCEPTION 'permission denied for the schema of %', source USING ERRCODE = 'insufficient_privilege';
        END IF;
        SELECT a.attname INTO denied FROM pg_attribute a
            WHERE a.attrelid = source AND a.attnum = ANY (attnums) AND NOT a.attisdropped
                AND NOT has_column_privilege(caller, source, a.attnum, 'SELECT') LIMIT 1;
        IF FOUND THEN
            RAISE EXCEPTION 'permission denied for column % of %', quote_ident(denied), source
                USING ERRCODE = 'insufficient_privilege',
                    HINT = 'Who defines a shard must be able to read what it shares: its columns, those of predicate and key, and the primary key.';
        END IF;
    END
    $$;
COMMENT ON FUNCTION foreshard.check_select(regrole, regclass, int2[]) IS 'refuses a shard of columns that its definer may not read';

CREATE FUNCTION foreshard.primary_key(source oid) RETURNS int2[]
    LANGUAGE sql STABLE STRICT SET search_path = pg_catalog, pg_temp
    AS $$
        SELECT coalesce((SELECT conkey FROM pg_constraint WHERE conrelid = source AND contype = 'p'), '{}')
    $$;
COMMENT ON FUNCTION foreshard.primary_key(oid) IS 'column numbers of the primary key, none without one';

CREATE FUNCTION foreshard.check_definition(owner regrole, source regclass, predicate text, key name[], columns name[]) RETURNS text
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
    AS $$
    DECLARE
        canonical text;
        needed int2[];
    BEGIN
        PERFORM foreshard.check_source(source);
        PERFORM foreshard.check_columns(source, key, 'key');
        PERFORM foreshard.check_columns(source, columns, 'columns');
        PERFORM foreshard.check_key(source, key);
        SELECT array_agg(attnum) INTO needed FROM pg_attribute a
            WHERE a.attrelid = source AND a.attnum > 0 AND NOT a.attisdropped
                AND (columns IS NULL OR a.attname = ANY (columns) OR a.attname = ANY (key));
        needed := needed || foreshard.primary_key(source);
        IF predicate IS NOT NULL THEN
            SELECT p.canonical, needed || p.attnums INTO STRICT canonical, needed
            FROM foreshard.compile_predicate(source, predicate, owner) AS p;
        END IF;
        PERFORM foreshard.check_select(owner, source, needed);
        RETURN canonical;
    END
    $$;
COMMENT ON FUNCTION foreshard.check_definition(regrole, regclass, text, name[], name[]) IS
    'refuses what no shard can be, and gives the predicate as PostgreSQL writes it';

CREATE FUNCTION foreshard.forget_shard(gone text) RETURNS void
    LANGUAGE sql VOLATILE SET search_path = pg_catalog, pg_temp
    AS $$
        DELETE FROM foreshard.shard_query q WHERE q.shard = gone;
        DELETE FROM foreshard.shard_source d WHERE d.shard = gone;
        DELETE FROM foreshard.mapping m WHERE m.shard = gone;
    $$;
COMMENT ON FUNCTION foreshard.forget_shard(text) IS
    'removes what belongs to a shard that was dropped; also before one is made, which must not be given out by what is left of another';

CREATE FUNCTION foreshard.define_shard(caller regrole, name text, source regclass, predicate text, key name[], columns name[],
        or_replace boolean, if_not_exists boolean)
    RETURNS void LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
    AS $$
    DECLARE
        old foreshard.shard;
        wanted foreshard.shard;
        toast regclass;
        too_large boolean;
    BEGIN
        IF name IS NULL OR source IS NULL OR or_replace IS NULL OR if_not_exists IS NULL THEN
            RAISE EXCEPTION 'name, source, or_replace and if_not_exists must not be NULL' USING ERRCODE = 'null_value_not_allowed';
        END IF;
        IF octet_length(name) NOT BETWEEN 1 AND 63 THEN
            RAISE EXCEPTION 'a shard''s name has 1 to 63 bytes' USING ERRCODE = 'invalid_name';
        END IF;
        IF or_replace AND if_not_exists THEN
            RAISE EXCEPTION 'or_replace and if_not_exists exclude each other' USING ERRCODE = 'invalid_parameter_value';
        END IF;
        IF octet_length(predicate) > 8192 THEN
            RAISE EXCEPTION 'a predicate has at most 8192 bytes' USING ERRCODE = 'program_limit_exceeded';
        END IF;
        IF cardinality(columns) = 0 THEN
            RAISE EXCEPTION 'columns must name at least one column' USING ERRCODE = 'invalid_parameter_value',
                HINT = 'Leave it NULL for all columns.';
        END IF;

        -- The table before the definitions, in the order in which ALTER TABLE and its event trigger lock them.
        IF EXISTS (SELECT FROM pg_class c WHERE c.oid = source AND c.relkind IN ('r', 'p')) THEN
            EXECUTE format('LOCK TABLE ONLY %s IN ACCESS SHARE MODE', source);
        END IF;
        -- Definitions change one after the other. Readers, writers of data and decoding are not held up, nor is the event trigger, which
        -- brings the shards of a table that is altered up to date: that table is locked against whoever defines on it.
        LOCK TABLE foreshard.shard IN SHARE UPDATE EXCLUSIVE MODE;
        SELECT * INTO old FROM foreshard.shard s WHERE s.name = define_shard.name;
        IF FOUND AND if_not_exists THEN
            RAISE NOTICE 'shard % already exists, skipping', quote_ident(name);
            RETURN;
        ELSIF FOUND AND NOT or_replace THEN
            RAISE EXCEPTION 'shard % already exists', quote_ident(name) USING ERRCODE = 'duplicate_object',
                HINT = 'Pass or_replace => true to redefine it.';
        ELSIF FOUND AND NOT pg_has_role(caller, old.owner, 'USAGE') THEN
            RAISE EXCEPTION 'must be owner of shard %', quote_ident(name) USING ERRCODE = 'insufficient_privilege';
        END IF;

        key := coalesce(key, '{}');
        predicate := foreshard.check_definition(caller, source, predicate, key, columns);

        IF old.name IS NOT NULL AND old.defect IS NULL AND (old.source, old.owner, old.key) = (source, caller, key)
            AND old.predicate IS NOT DISTINCT FROM predicate AND old.columns IS NOT DISTINCT FROM columns
            AND old.key_attnums = foreshard.attnums_of(source, key)
            AND old.column_attnums IS NOT DISTINCT FROM foreshard.attnums_of(source, columns) THEN
            RETURN;
        END IF;
        -- Two statements, because ON CONFLICT does not work on tables that decoding reads.
        IF old.name IS NULL THEN
            PERFORM foreshard.forget_shard(name);
            INSERT INTO foreshard.shard (name, source, predicate, key, columns, owner)
                VALUES (name, source, predicate, key, columns, caller) RETURNING * INTO wanted;
        ELSE
            DELETE FROM foreshard.shard_query q WHERE q.shard = old.name;
            DELETE FROM foreshard.shard_source d WHERE d.shard = old.name;
            UPDATE foreshard.shard s SET source = define_shard.source, predicate = define_shard.predicate, key = define_shard.key,
                    columns = define_shard.columns, owner = caller, generation = DEFAULT
                WHERE s.name = old.name RETURNING * INTO wanted;
        END IF;
        IF wanted.defect IS NOT NULL THEN
            RAISE EXCEPTION 'shard % can''t be defined: %', quote_ident(name), wanted.defect USING ERRCODE = 'invalid_object_definition';
        END IF;
        IF octet_length(wanted.predicate_tree) > 4000 OR cardinality(columns) > 50 THEN
            SELECT c.reltoastrelid INTO toast FROM pg_class c WHERE c.oid = 'foreshard.shard'::regclass;
            EXECUTE format('SELECT EXISTS (SELECT FROM %s)', toast) INTO too_large;
            IF too_large THEN
                RAISE EXCEPTION 'the definition of shard % is too large', quote_ident(name) USING ERRCODE = 'program_limit_exceeded',
                    HINT = 'Shorten the predicate or the list of columns.';
            END IF;
        END IF;
    END
    $$;
COMMENT ON FUNCTION foreshard.define_shard(regrole, text, regclass, text, name[], name[], boolean, boolean) IS
    'create_shard in the name of caller';

CREATE FUNCTION foreshard.remove_shard(caller regrole, name text, if_exists boolean) RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
    AS $$
    DECLARE
        old foreshard.shard;
    BEGIN
        IF name IS NULL OR if_exists IS NULL THEN
            RAISE EXCEPTION 'name and if_exists must not be NULL' USING ERRCODE = 'null_value_not_allowed';
        END IF;
        LOCK TABLE foreshard.shard IN SHARE UPDATE EXCLUSIVE MODE;
        SELECT * INTO old FROM foreshard.shard s WHERE s.name = remove_shard.name;
        IF NOT FOUND THEN
            IF if_exists THEN
                PERFORM foreshard.forget_shard(name);
                RAISE NOTICE 'shard % does not exist, skipping', quote_ident(name);
                RETURN;
            END IF;
            RAISE EXCEPTION 'shard % does not exist', quote_ident(name) USING ERRCODE = 'undefined_object',
                HINT = 'foreshard.shards lists the shards; pass if_exists => true to skip a missing one.';
        END IF;
        -- The role may be gone: then only a superuser is left to clear up.
        IF NOT EXISTS (SELECT FROM pg_roles r WHERE r.oid = old.owner) THEN
            IF NOT (SELECT r.rolsuper FROM pg_roles r WHERE r.oid = caller) THEN
                RAISE EXCEPTION 'must be superuser to drop shard %', quote_ident(name) USING ERRCODE = 'insufficient_privilege';
            END IF;
        ELSIF NOT pg_has_role(caller, old.owner, 'USAGE') THEN
            RAISE EXCEPTION 'must be owner of shard %', quote_ident(name) USING ERRCODE = 'insufficient_privilege';
        END IF;
        DELETE FROM foreshard.shard s WHERE s.name = remove_shard.name;
        PERFORM foreshard.forget_shard(name);
    END
    $$;
COMMENT ON FUNCTION foreshard.remove_shard(regrole, text, boolean) IS 'drop_shard in the name of caller';
