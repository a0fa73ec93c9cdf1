\echo Use "CREATE EXTENSION foreshard" to load this file. \quit

-- Tables. shard, mapping and edge are read by the output plugin while it decodes, under the snapshot of that moment of the
-- log: that is what user_catalog_table makes possible. Columns of type regclass and regrole are dumped as names, so
-- definitions survive pg_dump | restore into a cluster with other OIDs.

CREATE SCHEMA foreshard;
COMMENT ON SCHEMA foreshard IS 'logical shards, their functions and edges, and the change stream for them';

CREATE SEQUENCE foreshard.generation AS bigint;

CREATE TABLE foreshard.shard (
    name            text COLLATE "C" PRIMARY KEY CHECK (octet_length(name) BETWEEN 1 AND 63),
    source          regclass NOT NULL,
    predicate       text,
    key             name[] NOT NULL,
    columns         name[],
    owner           regrole NOT NULL,
    generation      bigint NOT NULL DEFAULT nextval('foreshard.generation'),
    -- Derived from the columns above by the trigger foreshard.shard_derive, also when a dump is restored.
    predicate_tree  text,
    key_attnums     int2[],
    column_attnums  int2[],
    defect          text,
    -- By which a table that is dropped and made again is recognised.
    source_name     text
) WITH (user_catalog_table = true, toast_tuple_target = 8160);
-- A value moved to the TOAST table could be vacuumed before a lagging decoder reads it; create_shard refuses rows so large.
ALTER TABLE foreshard.shard ALTER predicate SET STORAGE MAIN, ALTER predicate_tree SET STORAGE MAIN,
    ALTER key SET STORAGE MAIN, ALTER columns SET STORAGE MAIN, ALTER key_attnums SET STORAGE MAIN,
    ALTER column_attnums SET STORAGE MAIN, ALTER defect SET STORAGE MAIN, ALTER source_name SET STORAGE MAIN;
COMMENT ON TABLE foreshard.shard IS 'definitions of logical shards; change them with create_shard and drop_shard only';

CREATE TABLE foreshard.mapping (
    function_id text COLLATE "C" NOT NULL CHECK (octet_length(function_id) BETWEEN 1 AND 256),
    ordinal     int NOT NULL,
    shard       text COLLATE "C" NOT NULL REFERENCES foreshard.shard ON DELETE CASCADE,
    PRIMARY KEY (function_id, shard)
) WITH (user_catalog_table = true);
CREATE INDEX mapping_shard ON foreshard.mapping (shard);
COMMENT ON TABLE foreshard.mapping IS 'which shards a function may read; change it with map_function and unmap_function only';

CREATE TABLE foreshard.edge (
    name       text COLLATE "C" PRIMARY KEY CHECK (octet_length(name) BETWEEN 1 AND 63),
    latitude   float8 CHECK (latitude BETWEEN -90 AND 90),
    longitude  float8 CHECK (longitude BETWEEN -180 AND 180),
    role       regrole,
    slot_name  text NOT NULL
) WITH (user_catalog_table = true);
COMMENT ON TABLE foreshard.edge IS 'edge locations; change them with create_edge and drop_edge only';

CREATE TABLE foreshard.schedules (
    id           bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    edge         text COLLATE "C" NOT NULL REFERENCES foreshard.edge ON DELETE CASCADE,
    starts_at    timestamptz NOT NULL,
    ends_at      timestamptz NOT NULL CHECK (ends_at > starts_at),
    entries      jsonb NOT NULL,
    published_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX schedules_edge ON foreshard.schedules (edge, ends_at);
COMMENT ON TABLE foreshard.schedules IS 'prefetch schedules as published; of two for one moment and edge the higher id is in force';

CREATE TABLE foreshard.executions (
    id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    edge        text COLLATE "C" NOT NULL,
    function_id text COLLATE "C" NOT NULL,
    started_at  timestamptz NOT NULL,
    tables      text[] NOT NULL,
    filters     jsonb NOT NULL,
    shards      text[] NOT NULL,
    served_from text NOT NULL CHECK (served_from IN ('prefetch', 'reactive', 'origin', 'error')),
    wait_us     bigint NOT NULL CHECK (wait_us >= 0),
    bytes       bigint NOT NULL CHECK (bytes >= 0),
    logged_xid  xid8 NOT NULL DEFAULT pg_current_xact_id()
);
CREATE INDEX executions_logged ON foreshard.executions (logged_xid, id);
CREATE INDEX executions_started ON foreshard.executions USING brin (started_at);
COMMENT ON TABLE foreshard.executions IS 'execution log of edge functions, shipped in batches by the edges';
COMMENT ON COLUMN foreshard.executions.logged_xid IS
    'an incremental reader takes rows below pg_snapshot_xmin(pg_current_snapshot()) in (logged_xid, id) order and misses none';

CREATE TABLE foreshard.advice (
    id        bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    made_at   timestamptz NOT NULL DEFAULT now(),
    subject   text NOT NULL,
    advice    text NOT NULL,
    statement text,
    evidence  jsonb NOT NULL DEFAULT '{}'
);
COMMENT ON TABLE foreshard.advice IS 'what the execution log says about the shard definitions, and the statement that would follow it';

-- Definitions are part of a dump. Schedules, log and advice are not: they carry transaction ids and windows of this cluster.
SELECT pg_catalog.pg_extension_config_dump('foreshard.generation', '');
SELECT pg_catalog.pg_extension_config_dump('foreshard.shard',
    'WHERE EXISTS (SELECT FROM pg_catalog.pg_class c WHERE c.oid = source)');
SELECT pg_catalog.pg_extension_config_dump('foreshard.mapping',
    'WHERE EXISTS (SELECT FROM foreshard.shard s JOIN pg_catalog.pg_class c ON c.oid = s.source WHERE s.name = shard)');
SELECT pg_catalog.pg_extension_config_dump('foreshard.edge', '');

-- Functions of the library. None may be called by PUBLIC; create_edge grants an edge's role the ones it needs.

CREATE FUNCTION foreshard.version() RETURNS text
    LANGUAGE c IMMUTABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'version_wrapper';
COMMENT ON FUNCTION foreshard.version() IS 'version of the library that is loaded';

CREATE FUNCTION foreshard.commit_token() RETURNS pg_lsn
    LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'commit_token_wrapper';
COMMENT ON FUNCTION foreshard.commit_token() IS
    'a log position after every commit that this session knows of, already flushed: send it as Foreshard-Min-Lsn to read your own writes';

-- The settings that value output depends on are pinned, so that a fetched row has the same bytes whatever the session's are.
CREATE FUNCTION foreshard.fetch(edge text, instances text[]) RETURNS SETOF bytea
    LANGUAGE c VOLATILE
    SET search_path = pg_catalog, pg_temp
    SET datestyle = 'ISO, MDY' SET intervalstyle = 'postgres' SET timezone = 'UTC' SET extra_float_digits = 1
    SET bytea_output = 'hex' SET xmlbinary = 'base64' SET xmloption = 'content' SET lc_monetary = 'C'
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
CREATE FUNCTION foreshard.compile_predicate(source oid, predicate text)
    RETURNS TABLE (tree text, canonical text, attnums int2[])
    LANGUAGE c VOLATILE STRICT SET search_path = pg_catalog, pg_temp
    AS 'MODULE_PATHNAME', 'compile_predicate_wrapper';
COMMENT ON FUNCTION foreshard.compile_predicate(oid, text) IS
    'parses and checks a shard predicate: its expression tree, its text as PostgreSQL would write it, and the columns it reads';

CREATE FUNCTION foreshard.predicate_text(source oid, tree text) RETURNS text
    LANGUAGE c STABLE STRICT SET search_path = pg_catalog, pg_temp
    AS 'MODULE_PATHNAME', 'predicate_text_wrapper';
COMMENT ON FUNCTION foreshard.predicate_text(oid, text) IS 'a shard predicate with the column names of now';

CREATE FUNCTION foreshard.instance_shard(instance text) RETURNS text
    LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'instance_shard_wrapper';
COMMENT ON FUNCTION foreshard.instance_shard(text) IS 'the shard that a shard instance id names, NULL if the text is not one';

CREATE FUNCTION foreshard.instance_fault(instance text, shard text, key text[], mapped boolean) RETURNS text
    LANGUAGE c IMMUTABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'instance_fault_wrapper';
COMMENT ON FUNCTION foreshard.instance_fault(text, text, text[], boolean) IS
    'what is wrong with a shard instance id, given the shard it names (NULL if there is none); NULL if nothing';

-- What a definition means in terms of column numbers. A trigger derives it, so that a restored dump gets it as well.

CREATE FUNCTION foreshard.attnums_of(source oid, names name[]) RETURNS int2[]
    LANGUAGE sql STABLE STRICT SET search_path = pg_catalog, pg_temp
    AS $$
        SELECT coalesce(array_agg(a.attnum ORDER BY n.ordinality), '{}')
        FROM unnest(names) WITH ORDINALITY AS n(name, ordinality)
        LEFT JOIN pg_attribute a ON a.attrelid = source AND a.attname = n.name AND a.attnum > 0 AND NOT a.attisdropped
    $$;
COMMENT ON FUNCTION foreshard.attnums_of(oid, name[]) IS 'column numbers of the named columns, NULL for one that does not exist';

CREATE FUNCTION foreshard.qualified_name(relation oid) RETURNS text
    LANGUAGE sql STABLE STRICT SET search_path = pg_catalog, pg_temp
    AS $$
        SELECT format('%I.%I', n.nspname, c.relname) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
        WHERE c.oid = relation
    $$;
COMMENT ON FUNCTION foreshard.qualified_name(oid) IS 'schema and name of a relation, NULL if it is gone';

CREATE FUNCTION foreshard.shard_derive() RETURNS trigger
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
    AS $$
    BEGIN
        NEW.defect := NULL;
        NEW.predicate_tree := NULL;
        NEW.source_name := coalesce(foreshard.qualified_name(NEW.source), NEW.source_name);
        NEW.key_attnums := foreshard.attnums_of(NEW.source, NEW.key);
        NEW.column_attnums := foreshard.attnums_of(NEW.source, NEW.columns);
        IF array_position(NEW.key_attnums, NULL) IS NOT NULL OR array_position(NEW.column_attnums, NULL) IS NOT NULL THEN
            NEW.defect := format('a column of shard %I is missing from %s', NEW.name, NEW.source);
        ELSIF NEW.predicate IS NOT NULL THEN
            SELECT p.tree, p.canonical INTO STRICT NEW.predicate_tree, NEW.predicate
            FROM foreshard.compile_predicate(NEW.source, NEW.predicate) AS p;
        END IF;
        RETURN NEW;
    EXCEPTION WHEN OTHERS THEN
        -- One definition that no longer fits must not keep a dump with a hundred others from being restored.
        NEW.defect := left(SQLERRM, 500);
        NEW.predicate_tree := NULL;
        RETURN NEW;
    END
    $$;
CREATE TRIGGER derive BEFORE INSERT OR UPDATE ON foreshard.shard
    FOR EACH ROW EXECUTE FUNCTION foreshard.shard_derive();

CREATE FUNCTION foreshard.slot_name_of(edge text) RETURNS text
    LANGUAGE sql STABLE STRICT SET search_path = pg_catalog, pg_temp
    AS $$
        SELECT 'foreshard_' || left(regexp_replace(lower(edge COLLATE "C"), '[^a-z0-9_]', '_', 'g'), 40) || '_'
            || left(md5(current_database() || '/' || edge), 10)
    $$;
COMMENT ON FUNCTION foreshard.slot_name_of(text) IS
    'slot of an edge; the database is part of it because slot names are shared by all databases of a cluster';

CREATE FUNCTION foreshard.edge_derive() RETURNS trigger
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
    AS $$
    BEGIN
        NEW.slot_name := foreshard.slot_name_of(NEW.name);
        RETURN NEW;
    END
    $$;
CREATE TRIGGER derive BEFORE INSERT ON foreshard.edge
    FOR EACH ROW EXECUTE FUNCTION foreshard.edge_derive();

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
            FROM foreshard.compile_predicate(source, predicate) AS p;
        END IF;
        PERFORM foreshard.check_select(owner, source, needed);
        RETURN canonical;
    END
    $$;
COMMENT ON FUNCTION foreshard.check_definition(regrole, regclass, text, name[], name[]) IS
    'refuses what no shard can be, and gives the predicate as PostgreSQL writes it';

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
        -- Definitions change one after the other; readers, writers of data and decoding are not held up.
        LOCK TABLE foreshard.shard IN SHARE ROW EXCLUSIVE MODE;
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
            INSERT INTO foreshard.shard (name, source, predicate, key, columns, owner)
                VALUES (name, source, predicate, key, columns, caller) RETURNING * INTO wanted;
        ELSE
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
        LOCK TABLE foreshard.shard IN SHARE ROW EXCLUSIVE MODE;
        SELECT * INTO old FROM foreshard.shard s WHERE s.name = remove_shard.name;
        IF NOT FOUND THEN
            IF if_exists THEN
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
    END
    $$;
COMMENT ON FUNCTION foreshard.remove_shard(regrole, text, boolean) IS 'drop_shard in the name of caller';

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
        -- The name alone is no other definition: the generation stays.
        UPDATE foreshard.shard s SET source_name = foreshard.qualified_name(altered)
            WHERE s.source = altered AND s.source_name IS DISTINCT FROM foreshard.qualified_name(altered);
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
                    SELECT p.tree INTO STRICT new_tree FROM foreshard.compile_predicate(altered, new_predicate) AS p;
                EXCEPTION WHEN OTHERS THEN
                    -- The trigger on the table finds the same and keeps it as the shard's defect.
                    new_predicate := shard.predicate;
                END;
            END IF;
            CONTINUE WHEN (new_key, new_columns, new_predicate, new_tree,
                    foreshard.attnums_of(altered, new_key), foreshard.attnums_of(altered, new_columns)) IS NOT DISTINCT FROM
                (shard.key, shard.columns, shard.predicate, shard.predicate_tree, shard.key_attnums, shard.column_attnums);
            UPDATE foreshard.shard s SET key = new_key, columns = new_columns, predicate = new_predicate, generation = DEFAULT
                WHERE s.name = shard.name;
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
                UPDATE foreshard.shard s SET source = made, generation = DEFAULT WHERE s.name = shard.name;
            EXCEPTION WHEN OTHERS THEN
                RAISE WARNING 'shard % does not fit the new table %: %', quote_ident(shard.name), made::regclass, SQLERRM
                    USING HINT = 'Redefine it with foreshard.create_shard(…, or_replace => true), or drop it.';
            END;
        END LOOP;
    END
    $$;
COMMENT ON FUNCTION foreshard.take_over(oid) IS 'gives the shards of a table that was dropped to a new one of the same name, if they fit';

CREATE FUNCTION foreshard.follow_ddl() RETURNS event_trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
    DECLARE
        altered oid;
    BEGIN
        FOR altered IN SELECT DISTINCT c.objid FROM pg_event_trigger_ddl_commands() c
            WHERE c.classid = 'pg_class'::regclass AND EXISTS (SELECT FROM foreshard.shard s
                WHERE s.source = c.objid OR s.source_name = foreshard.qualified_name(c.objid))
        LOOP
            PERFORM foreshard.take_over(altered);
            PERFORM foreshard.follow_table(altered);
        END LOOP;
    EXCEPTION WHEN OTHERS THEN
        -- Nobody's ALTER TABLE fails because of a shard. The stream invalidates it in any case.
        RAISE WARNING 'a shard definition could not follow: %', SQLERRM;
    END
    $$;
COMMENT ON FUNCTION foreshard.follow_ddl() IS 'called after ALTER TABLE and CREATE TABLE';
CREATE EVENT TRIGGER foreshard_follow_ddl ON ddl_command_end WHEN TAG IN ('ALTER TABLE', 'CREATE TABLE', 'CREATE TABLE AS', 'SELECT INTO')
    EXECUTE FUNCTION foreshard.follow_ddl();
COMMENT ON EVENT TRIGGER foreshard_follow_ddl IS 'keeps shard definitions in step with their tables';

-- Which function reads which shards. Whoever may EXECUTE these decides what edge functions see.

CREATE FUNCTION foreshard.map_function(function_id text, shards text[]) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
    DECLARE
        unknown text;
        old text[];
    BEGIN
        IF function_id IS NULL OR shards IS NULL OR array_position(shards, NULL) IS NOT NULL THEN
            RAISE EXCEPTION 'function_id and shards must not be NULL or hold NULL' USING ERRCODE = 'null_value_not_allowed';
        END IF;
        IF octet_length(function_id) NOT BETWEEN 1 AND 256 THEN
            RAISE EXCEPTION 'a function_id has 1 to 256 bytes' USING ERRCODE = 'invalid_name';
        END IF;
        IF cardinality(shards) = 0 OR array_ndims(shards) > 1 THEN
            RAISE EXCEPTION 'shards must be a plain list of at least one shard' USING ERRCODE = 'invalid_parameter_value',
                HINT = 'foreshard.unmap_function removes a function.';
        END IF;
        LOCK TABLE foreshard.shard IN SHARE ROW EXCLUSIVE MODE;
        SELECT m INTO unknown FROM unnest(shards) m
            WHERE NOT EXISTS (SELECT FROM foreshard.shard s WHERE s.name = m COLLATE "C") LIMIT 1;
        IF FOUND THEN
            RAISE EXCEPTION 'shard % does not exist', quote_ident(left(unknown, 100)) USING ERRCODE = 'undefined_object',
                HINT = 'Define it with foreshard.create_shard first; foreshard.shards lists the shards.';
        END IF;
        SELECT m INTO unknown FROM unnest(shards) m GROUP BY m HAVING count(*) > 1 LIMIT 1;
        IF FOUND THEN
            RAISE EXCEPTION 'shard % is named twice', quote_ident(unknown) USING ERRCODE = 'invalid_parameter_value';
        END IF;
        SELECT array_agg(m.shard ORDER BY m.ordinal) INTO old FROM foreshard.mapping m
            WHERE m.function_id = map_function.function_id;
        IF old = shards THEN
            RETURN;
        END IF;
        DELETE FROM foreshard.mapping m WHERE m.function_id = map_function.function_id;
        INSERT INTO foreshard.mapping (function_id, ordinal, shard)
            SELECT map_function.function_id, n.ordinality, n.shard FROM unnest(shards) WITH ORDINALITY AS n(shard, ordinality);
    END
    $$;
COMMENT ON FUNCTION foreshard.map_function(text, text[]) IS 'sets the complete list of shards that a function may read';

CREATE FUNCTION foreshard.unmap_function(function_id text, if_exists boolean DEFAULT false) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
    BEGIN
        IF function_id IS NULL OR if_exists IS NULL THEN
            RAISE EXCEPTION 'function_id and if_exists must not be NULL' USING ERRCODE = 'null_value_not_allowed';
        END IF;
        LOCK TABLE foreshard.shard IN SHARE ROW EXCLUSIVE MODE;
        DELETE FROM foreshard.mapping m WHERE m.function_id = unmap_function.function_id;
        IF NOT FOUND THEN
            IF NOT if_exists THEN
                RAISE EXCEPTION 'function % is not mapped', quote_literal(left(function_id, 256)) USING ERRCODE = 'undefined_object',
                    HINT = 'foreshard.function_shards lists the mappings; pass if_exists => true to skip a missing one.';
            END IF;
            RAISE NOTICE 'function % is not mapped, skipping', quote_literal(left(function_id, 256));
        END IF;
    END
    $$;
COMMENT ON FUNCTION foreshard.unmap_function(text, boolean) IS 'removes a function: it may read nothing any more';

-- Edges. See 40_shards.sql for why the functions that people call are in C.

CREATE FUNCTION foreshard.create_edge(name text, latitude float8 DEFAULT NULL, longitude float8 DEFAULT NULL,
        role regrole DEFAULT NULL, if_not_exists boolean DEFAULT false)
    RETURNS void LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'foreshard_create_edge';
COMMENT ON FUNCTION foreshard.create_edge(text, float8, float8, regrole, boolean) IS
    'registers an edge location and grants role what a sidecar there needs; without role only superusers can run it';

CREATE FUNCTION foreshard.drop_edge(name text, if_exists boolean DEFAULT false)
    RETURNS void LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'foreshard_drop_edge';
COMMENT ON FUNCTION foreshard.drop_edge(text, boolean) IS 'removes an edge, its schedules and its replication slot';

-- The rights of a sidecar's role, in one place for granting and revoking.
CREATE FUNCTION foreshard.edge_rights(role regrole, give boolean) RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
    AS $$
    DECLARE
        functions constant text := 'foreshard.version(), foreshard.commit_token(), foreshard.fetch(text, text[]),'
            ' foreshard.edge_catalog(text), foreshard.edge_slot(text), foreshard.nudge(text), foreshard.log_executions(text, jsonb)';
        name constant text := quote_ident((SELECT rolname FROM pg_roles WHERE oid = role));
    BEGIN
        IF give THEN
            EXECUTE format('GRANT USAGE ON SCHEMA foreshard TO %s', name);
            EXECUTE format('GRANT EXECUTE ON FUNCTION %s TO %s', functions, name);
        ELSE
            EXECUTE format('REVOKE USAGE ON SCHEMA foreshard FROM %s', name);
            EXECUTE format('REVOKE EXECUTE ON FUNCTION %s FROM %s', functions, name);
        END IF;
    END
    $$;
COMMENT ON FUNCTION foreshard.edge_rights(regrole, boolean) IS 'grants or revokes what the role of an edge needs';

CREATE FUNCTION foreshard.register_edge(caller regrole, name text, latitude float8, longitude float8, role regrole,
        if_not_exists boolean)
    RETURNS void LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
    AS $$
    DECLARE
        login pg_roles;
    BEGIN
        IF name IS NULL OR if_not_exists IS NULL THEN
            RAISE EXCEPTION 'name and if_not_exists must not be NULL' USING ERRCODE = 'null_value_not_allowed';
        END IF;
        IF octet_length(name) NOT BETWEEN 1 AND 63 THEN
            RAISE EXCEPTION 'an edge''s name has 1 to 63 bytes' USING ERRCODE = 'invalid_name';
        END IF;
        IF latitude NOT BETWEEN -90 AND 90 OR longitude NOT BETWEEN -180 AND 180 THEN
            RAISE EXCEPTION 'latitude is between -90 and 90, longitude between -180 and 180 degrees'
                USING ERRCODE = 'numeric_value_out_of_range';
        END IF;
        LOCK TABLE foreshard.edge IN SHARE ROW EXCLUSIVE MODE;
        IF EXISTS (SELECT FROM foreshard.edge e WHERE e.name = register_edge.name) THEN
            IF if_not_exists THEN
                RAISE NOTICE 'edge % already exists, skipping', quote_ident(name);
                RETURN;
            END IF;
            RAISE EXCEPTION 'edge % already exists', quote_ident(name) USING ERRCODE = 'duplicate_object',
                HINT = 'Pass if_not_exists => true to skip it, or drop it with foreshard.drop_edge.';
        END IF;
        INSERT INTO foreshard.edge (name, latitude, longitude, role) VALUES (name, latitude, longitude, role);
        IF role IS NULL THEN
            RETURN;
        END IF;
        SELECT * INTO login FROM pg_roles r WHERE r.oid = role;
        IF NOT FOUND THEN
            RAISE EXCEPTION 'role with OID % does not exist', role::oid USING ERRCODE = 'undefined_object';
        END IF;
        PERFORM foreshard.edge_rights(role, true);
        IF NOT login.rolreplication AND NOT login.rolsuper THEN
            IF NOT (SELECT r.rolsuper FROM pg_roles r WHERE r.oid = caller) THEN
                RAISE EXCEPTION 'role % lacks the REPLICATION attribute that a sidecar''s stream needs', quote_ident(login.rolname)
                    USING ERRCODE = 'insufficient_privilege', HINT = format('Have a superuser run: ALTER ROLE %I REPLICATION', login.rolname);
            END IF;
            EXECUTE format('ALTER ROLE %I REPLICATION', login.rolname);
        END IF;
    END
    $$;
COMMENT ON FUNCTION foreshard.register_edge(regrole, text, float8, float8, regrole, boolean) IS 'create_edge in the name of caller';

CREATE FUNCTION foreshard.remove_edge(caller regrole, name text, if_exists boolean) RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
    AS $$
    DECLARE
        old foreshard.edge;
        slot pg_replication_slots;
        patience constant timestamptz := clock_timestamp() + interval '10 seconds';
    BEGIN
        IF name IS NULL OR if_exists IS NULL THEN
            RAISE EXCEPTION 'name and if_exists must not be NULL' USING ERRCODE = 'null_value_not_allowed';
        END IF;
        LOCK TABLE foreshard.edge IN SHARE ROW EXCLUSIVE MODE;
        DELETE FROM foreshard.edge e WHERE e.name = remove_edge.name RETURNING * INTO old;
        IF NOT FOUND THEN
            IF if_exists THEN
                RAISE NOTICE 'edge % does not exist, skipping', quote_ident(name);
                RETURN;
            END IF;
            RAISE EXCEPTION 'edge % does not exist', quote_ident(name) USING ERRCODE = 'undefined_object',
                HINT = 'foreshard.edges lists the edges; pass if_exists => true to skip a missing one.';
        END IF;
        IF NOT EXISTS (SELECT FROM foreshard.edge e WHERE e.role = old.role)
            AND EXISTS (SELECT FROM pg_roles r WHERE r.oid = old.role) THEN
            PERFORM foreshard.edge_rights(old.role, false);
        END IF;
        -- Last, because dropping a slot is not undone by ROLLBACK. Should that happen the sidecar makes a new slot and drops its copies.
        LOOP
            SELECT * INTO slot FROM pg_replication_slots s
                WHERE s.slot_name = old.slot_name AND s.plugin = 'foreshard' AND s.database = current_database();
            EXIT WHEN NOT FOUND;
            IF slot.active_pid IS NOT NULL THEN
                IF clock_timestamp() > patience THEN
                    RAISE EXCEPTION 'replication slot % of edge % is in use by process %', slot.slot_name, quote_ident(name), slot.active_pid
                        USING ERRCODE = 'object_in_use', HINT = 'Stop the sidecar of this edge and repeat the call.';
                END IF;
                PERFORM pg_terminate_backend(slot.active_pid);
                PERFORM pg_sleep(0.05);
                CONTINUE;
            END IF;
            BEGIN
                PERFORM pg_drop_replication_slot(slot.slot_name);
            EXCEPTION
                WHEN object_in_use OR undefined_object THEN
                    NULL; -- taken, or gone, between the look and the drop: look again
            END;
        END LOOP;
    END
    $$;
COMMENT ON FUNCTION foreshard.remove_edge(regrole, text, boolean) IS 'drop_edge in the name of caller';

CREATE FUNCTION foreshard.append_executions(edge text, batch jsonb) RETURNS bigint
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET timezone = 'UTC'
    AS $$
    DECLARE
        written bigint;
    BEGIN
        IF jsonb_typeof(batch) IS DISTINCT FROM 'array' THEN
            RAISE EXCEPTION 'batch must be a JSON array of executions' USING ERRCODE = 'invalid_parameter_value';
        END IF;
        IF jsonb_array_length(batch) > 10000 THEN
            RAISE EXCEPTION 'a batch has at most 10000 executions' USING ERRCODE = 'program_limit_exceeded';
        END IF;
        INSERT INTO foreshard.executions (edge, function_id, started_at, tables, filters, shards, served_from, wait_us, bytes)
            SELECT append_executions.edge, e.function_id, e.started_at, coalesce(e.tables, '{}'), coalesce(e.filters, '{}'),
                coalesce(e.shards, '{}'), e.served_from, e.wait_us, e.bytes
            FROM jsonb_to_recordset(batch) AS e(function_id text, started_at timestamptz, tables text[], filters jsonb,
                shards text[], served_from text, wait_us bigint, bytes bigint);
        GET DIAGNOSTICS written = ROW_COUNT;
        RETURN written;
    END
    $$;
COMMENT ON FUNCTION foreshard.append_executions(text, jsonb) IS 'log_executions after the caller was checked';

-- Schedules. EXECUTE on publish_schedule is a right of its own: an edge can't publish, and a planner can't read rows.

CREATE FUNCTION foreshard.check_schedule(entries jsonb) RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
    AS $$
    DECLARE
        entry jsonb;
        at bigint;
        wrong text;
    BEGIN
        IF jsonb_typeof(entries) <> 'array' THEN
            RAISE EXCEPTION 'entries must be a JSON array of {"function_id", "shard_list", "confidence"}'
                USING ERRCODE = 'invalid_parameter_value';
        END IF;
        IF jsonb_array_length(entries) > 100000 OR octet_length(entries::text) > 16777216 THEN
            RAISE EXCEPTION 'a schedule has at most 100000 entries and 16 MiB' USING ERRCODE = 'program_limit_exceeded',
                HINT = 'Publish a shorter window, or leave out what is unlikely.';
        END IF;
        FOR entry, at IN SELECT e.value, e.ordinality - 1 FROM jsonb_array_elements(entries) WITH ORDINALITY AS e(value, ordinality)
        LOOP
            wrong := CASE
                WHEN jsonb_typeof(entry) <> 'object' THEN 'must be an object'
                WHEN NOT entry ?& '{function_id,shard_list,confidence}' OR entry - '{function_id,shard_list,confidence}'::text[] <> '{}'
                    THEN 'must have exactly the members function_id, shard_list and confidence'
                WHEN jsonb_typeof(entry -> 'function_id') <> 'string' THEN 'function_id must be a string'
                WHEN jsonb_typeof(entry -> 'confidence') <> 'number' THEN 'confidence must be a number'
                WHEN (entry ->> 'confidence')::numeric NOT BETWEEN 0 AND 1 THEN 'confidence must be between 0 and 1'
                WHEN jsonb_typeof(entry -> 'shard_list') <> 'array' THEN 'shard_list must be an array of strings'
                WHEN jsonb_array_length(entry -> 'shard_list') = 0 THEN 'shard_list must not be empty'
                WHEN jsonb_path_exists(entry, 'strict $.shard_list[*] ? (@.type() != "string")') THEN 'shard_list must be an array of strings'
            END;
            IF wrong IS NOT NULL THEN
                RAISE EXCEPTION 'entry % of the schedule: %', at, wrong USING ERRCODE = 'invalid_parameter_value';
            END IF;
        END LOOP;
    END
    $$;
COMMENT ON FUNCTION foreshard.check_schedule(jsonb) IS 'refuses entries of another shape than the documented one';

CREATE FUNCTION foreshard.check_schedule_names(entries jsonb) RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
    AS $$
    DECLARE
        bad record;
    BEGIN
        SELECT e.ordinality - 1 AS at, e.value ->> 'function_id' AS function_id INTO bad
            FROM jsonb_array_elements(entries) WITH ORDINALITY AS e(value, ordinality)
            WHERE NOT EXISTS (SELECT FROM foreshard.mapping m WHERE m.function_id = (e.value ->> 'function_id') COLLATE "C")
            ORDER BY 1 LIMIT 1;
        IF FOUND THEN
            RAISE EXCEPTION 'entry % of the schedule: function % is not mapped', bad.at, quote_literal(left(bad.function_id, 256))
                USING ERRCODE = 'undefined_object', HINT = 'foreshard.function_shards lists the functions and their shards.';
        END IF;
        SELECT e.ordinality - 1 AS at, i.instance,
                foreshard.instance_fault(i.instance, s.name, s.key::text[], m.shard IS NOT NULL) AS fault INTO bad
            FROM jsonb_array_elements(entries) WITH ORDINALITY AS e(value, ordinality)
            CROSS JOIN LATERAL jsonb_array_elements_text(e.value -> 'shard_list') AS i(instance)
            LEFT JOIN foreshard.shard s ON s.name = foreshard.instance_shard(i.instance) COLLATE "C"
            LEFT JOIN foreshard.mapping m ON m.function_id = (e.value ->> 'function_id') COLLATE "C" AND m.shard = s.name
            WHERE foreshard.instance_fault(i.instance, s.name, s.key::text[], m.shard IS NOT NULL) IS NOT NULL
            ORDER BY 1 LIMIT 1;
        IF FOUND THEN
            RAISE EXCEPTION 'entry % of the schedule: shard_list has %: %', bad.at, quote_literal(left(bad.instance, 256)), bad.fault
                USING ERRCODE = CASE WHEN bad.fault = 'no such shard' THEN 'undefined_object' ELSE 'invalid_parameter_value' END;
        END IF;
    END
    $$;
COMMENT ON FUNCTION foreshard.check_schedule_names(jsonb) IS 'refuses unknown functions, and shard instances that the function can''t read';

CREATE FUNCTION foreshard.publish_schedule(edge text, starts_at timestamptz, ends_at timestamptz, entries jsonb) RETURNS bigint
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
    DECLARE
        published bigint;
    BEGIN
        IF edge IS NULL OR starts_at IS NULL OR ends_at IS NULL OR entries IS NULL THEN
            RAISE EXCEPTION 'edge, starts_at, ends_at and entries must not be NULL' USING ERRCODE = 'null_value_not_allowed';
        END IF;
        IF NOT starts_at < ends_at OR NOT isfinite(starts_at) OR NOT isfinite(ends_at) THEN
            RAISE EXCEPTION 'a schedule starts before it ends, both at finite times' USING ERRCODE = 'invalid_parameter_value';
        END IF;
        IF NOT EXISTS (SELECT FROM foreshard.edge e WHERE e.name = publish_schedule.edge) THEN
            RAISE EXCEPTION 'edge % does not exist', quote_ident(left(edge, 100)) USING ERRCODE = 'undefined_object',
                HINT = 'Register it with foreshard.create_edge; foreshard.edges lists the edges.';
        END IF;
        PERFORM foreshard.check_schedule(entries);
        PERFORM foreshard.check_schedule_names(entries);
        -- Kept: what may still come into force, and the last thousand of an edge for whoever wants to see what was predicted.
        DELETE FROM foreshard.schedules s WHERE s.edge = publish_schedule.edge AND s.id <= (
            SELECT k.id FROM foreshard.schedules k WHERE k.edge = publish_schedule.edge ORDER BY k.id DESC OFFSET 999 LIMIT 1);
        INSERT INTO foreshard.schedules (edge, starts_at, ends_at, entries)
            VALUES (edge, starts_at, ends_at, entries) RETURNING id INTO published;
        RETURN published;
    END
    $$;
COMMENT ON FUNCTION foreshard.publish_schedule(text, timestamptz, timestamptz, jsonb) IS
    'publishes a prefetch schedule for a window; it reaches the edge in commit order with the data';

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

-- What is wrong with this origin, and the statement that mends it.

CREATE FUNCTION foreshard.health_server() RETURNS TABLE ("check" text, status text, detail text, fix text)
    LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp
    AS $$
    DECLARE
        setting text := current_setting('wal_level');
        plugins text := current_setting('output_plugin_libraries', true);
        listed text[] := regexp_split_to_array(plugins, '\s*,\s*');
        edges bigint := (SELECT count(*) FROM foreshard.edge);
        used bigint;
        room bigint;
    BEGIN
        RETURN QUERY SELECT 'wal_level', CASE setting WHEN 'logical' THEN 'ok' ELSE 'fail' END,
            format('wal_level is %s; the change stream needs logical', setting),
            CASE WHEN setting <> 'logical' THEN 'ALTER SYSTEM SET wal_level = logical; -- and restart the server' END;

        IF plugins IS NULL THEN
            RETURN QUERY SELECT 'output_plugin_libraries', 'warn', 'this minor release loads any output plugin',
                'Update PostgreSQL to its newest minor release, then: ALTER SYSTEM SET output_plugin_libraries = pgoutput, foreshard';
        ELSE
            RETURN QUERY SELECT 'output_plugin_libraries', CASE WHEN 'foreshard' = ANY (listed) THEN 'ok' ELSE 'fail' END,
                CASE WHEN 'foreshard' = ANY (listed) THEN 'the server may load the output plugin foreshard'
                    ELSE format('the server does not load the output plugin foreshard, only: %s', plugins) END,
                CASE WHEN 'foreshard' <> ALL (listed) THEN format('ALTER SYSTEM SET output_plugin_libraries = %s; -- then SELECT pg_reload_conf()',
                    (SELECT string_agg(quote_ident(trim(both '"' FROM p)), ', ') FROM unnest(listed || 'foreshard'::text) p WHERE p <> '')) END;
        END IF;

        -- Slots that edges of this database already have are not needed again.
        SELECT count(*) INTO used FROM pg_replication_slots s
            WHERE NOT EXISTS (SELECT FROM foreshard.edge e WHERE e.slot_name = s.slot_name);
        room := current_setting('max_replication_slots')::bigint - used;
        RETURN QUERY SELECT 'max_replication_slots', CASE WHEN room >= edges THEN 'ok' ELSE 'fail' END,
            format('%s edges, and room for %s slots', edges, room),
            CASE WHEN room < edges THEN format('ALTER SYSTEM SET max_replication_slots = %s; -- and restart the server', used + edges + 5) END;

        SELECT count(*) INTO used FROM pg_stat_replication r
            WHERE NOT EXISTS (SELECT FROM pg_replication_slots s JOIN foreshard.edge e USING (slot_name) WHERE s.active_pid = r.pid);
        room := current_setting('max_wal_senders')::bigint - used;
        RETURN QUERY SELECT 'max_wal_senders', CASE WHEN room >= edges THEN 'ok' ELSE 'fail' END,
            format('%s edges, and room for %s streams', edges, room),
            CASE WHEN room < edges THEN format('ALTER SYSTEM SET max_wal_senders = %s; -- and restart the server', used + edges + 5) END;

        setting := current_setting('max_slot_wal_keep_size');
        RETURN QUERY SELECT 'max_slot_wal_keep_size', CASE setting WHEN '-1' THEN 'warn' ELSE 'ok' END,
            CASE setting WHEN '-1' THEN 'an edge that is gone for long can fill the disk with retained log'
                ELSE format('an edge that falls back further than %s loses its slot and starts anew', setting) END,
            CASE setting WHEN '-1' THEN 'ALTER SYSTEM SET max_slot_wal_keep_size = ''20GB''; -- then SELECT pg_reload_conf()' END;

        setting := current_setting('synchronous_commit');
        RETURN QUERY SELECT 'synchronous_commit', CASE setting WHEN 'off' THEN 'warn' ELSE 'ok' END,
            CASE setting WHEN 'off' THEN 'commits reach the stream only when the log is flushed, up to 0.6 s later'
                ELSE format('synchronous_commit is %s', setting) END,
            CASE setting WHEN 'off' THEN 'ALTER SYSTEM SET synchronous_commit = on; -- then SELECT pg_reload_conf()' END;

        setting := (SELECT pg_encoding_to_char(encoding) FROM pg_database WHERE datname = current_database());
        RETURN QUERY SELECT 'encoding', CASE setting WHEN 'UTF8' THEN 'ok' ELSE 'fail' END,
            format('the database has encoding %s; values travel as UTF-8', setting),
            CASE WHEN setting <> 'UTF8' THEN 'Create a database with ENCODING ''UTF8'' and move the data: pg_dump | pg_restore' END;
    END
    $$;
COMMENT ON FUNCTION foreshard.health_server() IS 'the part of health() about the server';

CREATE FUNCTION foreshard.health_edges() RETURNS TABLE ("check" text, status text, detail text, fix text)
    LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp
    AS $$
    DECLARE
        edge record;
    BEGIN
        FOR edge IN SELECT e.*, r.oid IS NOT NULL AS role_exists, r.rolname, r.rolreplication OR r.rolsuper AS may_stream, r.rolcanlogin
            FROM foreshard.edges e LEFT JOIN pg_roles r ON r.oid = e.role ORDER BY e.name
        LOOP
            "check" := 'slot of edge ' || quote_ident(edge.name);
            fix := NULL;
            IF edge.active IS NULL THEN
                status := 'warn';
                detail := 'no slot yet: the sidecar of this edge has never been connected, or its slot was dropped';
                fix := format('foreshard serve --edge %s …, or SELECT foreshard.drop_edge(%L)', quote_ident(edge.name), edge.name);
            ELSIF edge.wal_status = 'lost' THEN
                status := 'fail';
                detail := format('slot %s is lost, the log it needs is gone: the sidecar must start with a new one', edge.slot_name);
                fix := format('SELECT pg_drop_replication_slot(%L)', edge.slot_name);
            ELSIF NOT edge.active THEN
                status := 'warn';
                detail := format('nobody reads slot %s, which holds back %s of log', edge.slot_name, pg_size_pretty(edge.retained_wal_bytes));
                fix := format('Start the sidecar, or if the edge is gone: SELECT foreshard.drop_edge(%L)', edge.name);
            ELSIF edge.wal_status = 'unreserved' OR edge.retained_wal_bytes > 1073741824 THEN
                status := 'warn';
                detail := format('slot %s is behind and holds back %s of log', edge.slot_name, pg_size_pretty(edge.retained_wal_bytes));
                fix := 'Look at the sidecar: foreshard_* at its /metrics tell what it waits for.';
            ELSE
                status := 'ok';
                detail := format('slot %s is followed and holds back %s of log', edge.slot_name, pg_size_pretty(edge.retained_wal_bytes));
            END IF;
            RETURN NEXT;

            "check" := 'role of edge ' || quote_ident(edge.name);
            fix := NULL;
            IF edge.role IS NULL THEN
                status := 'warn';
                detail := 'no role was named: only a superuser can run this edge';
                fix := format('SELECT foreshard.drop_edge(%L); SELECT foreshard.create_edge(%L, role => ''…'')', edge.name, edge.name);
            ELSIF NOT edge.role_exists THEN
                status := 'fail';
                detail := 'its role was dropped';
                fix := format('SELECT foreshard.drop_edge(%L); SELECT foreshard.create_edge(%L, role => ''…'')', edge.name, edge.name);
            ELSIF NOT edge.may_stream THEN
                status := 'fail';
                detail := format('role %I lacks the REPLICATION attribute', edge.rolname);
                fix := format('ALTER ROLE %I REPLICATION', edge.rolname);
            ELSIF NOT has_function_privilege(edge.role, 'foreshard.fetch(text, text[])', 'EXECUTE') THEN
                status := 'fail';
                detail := format('role %I may not call the functions of a sidecar', edge.rolname);
                fix := format('SELECT foreshard.edge_rights(%L, true)', edge.rolname);
            ELSE
                status := 'ok';
                detail := format('role %I has what a sidecar needs', edge.rolname);
            END IF;
            RETURN NEXT;
        END LOOP;
    END
    $$;
COMMENT ON FUNCTION foreshard.health_edges() IS 'the part of health() about edges';

-- The columns that decide where a row belongs, and whether the log holds them of a row before its change.
CREATE FUNCTION foreshard.decisive_columns(shard text) RETURNS int2[]
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
    AS $$
        SELECT coalesce(array_agg(DISTINCT n), '{}') FROM foreshard.shard s, LATERAL (
            SELECT unnest(s.key_attnums) UNION
            SELECT m[1]::int2 FROM regexp_matches(s.predicate_tree, ':varattno (\d+)', 'g') m) AS c(n)
        WHERE s.name = shard
    $$;
COMMENT ON FUNCTION foreshard.decisive_columns(text) IS 'column numbers of the key and the predicate of a shard';

CREATE FUNCTION foreshard.health_shards() RETURNS TABLE ("check" text, status text, detail text, fix text)
    LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp
    AS $$
    DECLARE
        shard record;
        part record;
        missing text;
        names text;
    BEGIN
        FOR shard IN SELECT s.*, v.defect AS fault, c.relkind, c.relrowsecurity, c.relpersistence,
                EXISTS (SELECT FROM pg_roles r WHERE r.oid = s.owner) AS owner_exists
            FROM foreshard.shard s JOIN foreshard.shards v USING (name) LEFT JOIN pg_class c ON c.oid = s.source ORDER BY s.name
        LOOP
            "check" := 'shard ' || quote_ident(shard.name);
            fix := NULL;
            IF shard.fault IS NOT NULL OR NOT shard.owner_exists THEN
                status := 'fail';
                detail := coalesce(shard.fault, 'the role that defined it is gone');
                fix := format('SELECT foreshard.create_shard(%L, …, or_replace => true), or SELECT foreshard.drop_shard(%L)', shard.name, shard.name);
                RETURN NEXT;
                CONTINUE;
            ELSIF shard.relrowsecurity THEN
                status := 'fail';
                detail := format('%s has row-level security: the shard is not given out', shard.source);
                fix := format('ALTER TABLE %s DISABLE ROW LEVEL SECURITY', shard.source);
                RETURN NEXT;
                CONTINUE;
            ELSIF shard.relpersistence <> 'p' THEN
                status := 'fail';
                detail := format('changes of %s are not logged', shard.source);
                fix := format('ALTER TABLE %s SET LOGGED', shard.source);
                RETURN NEXT;
                CONTINUE;
            END IF;
            status := 'ok';
            detail := format('on %s, changes of rows can be told apart', shard.source);
            names := (SELECT string_agg(quote_ident(a.attname), ', ' ORDER BY array_position(shard.key_attnums, a.attnum), a.attnum)
                FROM pg_attribute a WHERE a.attrelid = shard.source
                    AND a.attnum = ANY (foreshard.decisive_columns(shard.name) || foreshard.primary_key(shard.source)));
            FOR part IN SELECT c.oid::regclass AS name, c.oid, c.relreplident
                FROM pg_class c WHERE c.relkind = 'r' AND (c.oid = shard.source
                    OR c.oid IN (SELECT t.relid FROM pg_partition_tree(shard.source) t))
            LOOP
                CONTINUE WHEN part.relreplident = 'f';
                SELECT string_agg(quote_ident(a.attname), ', ') INTO missing
                    FROM unnest(foreshard.decisive_columns(shard.name)) n
                    JOIN pg_attribute r ON r.attrelid = shard.source AND r.attnum = n
                    JOIN pg_attribute a ON a.attrelid = part.oid AND a.attname = r.attname
                    WHERE NOT EXISTS (SELECT FROM pg_index i WHERE i.indrelid = part.oid
                        AND CASE part.relreplident WHEN 'd' THEN i.indisprimary WHEN 'i' THEN i.indisreplident END
                        AND a.attnum = ANY (i.indkey[:i.indnkeyatts - 1]));
                IF missing IS NOT NULL THEN
                    status := 'warn';
                    detail := format('the log does not hold %s of rows of %s before an UPDATE or DELETE, which then invalidates the whole shard',
                        missing, part.name);
                    -- The index form needs columns that are NOT NULL, and a key to make it unique.
                    fix := CASE WHEN foreshard.primary_key(part.oid) <> '{}' AND NOT EXISTS (SELECT FROM pg_attribute a
                            WHERE a.attrelid = part.oid AND NOT a.attnotnull AND a.attname IN (SELECT r.attname FROM pg_attribute r
                                WHERE r.attrelid = shard.source AND r.attnum = ANY (foreshard.decisive_columns(shard.name))))
                        THEN format('CREATE UNIQUE INDEX %I ON %s (%s); ALTER TABLE %s REPLICA IDENTITY USING INDEX %I',
                            left('foreshard_' || shard.name, 50) || '_identity', part.name, names, part.name, left('foreshard_' || shard.name, 50) || '_identity')
                        ELSE format('ALTER TABLE %s REPLICA IDENTITY FULL', part.name) END;
                    EXIT;
                END IF;
            END LOOP;
            RETURN NEXT;

            IF cardinality(shard.key_attnums) > 0 AND NOT EXISTS (SELECT FROM pg_index i WHERE i.indrelid = shard.source AND i.indisvalid
                    AND i.indkey[0] = ANY (shard.key_attnums)) THEN
                "check" := format('index for shard %I', shard.name);
                status := 'warn';
                detail := format('no index of %s begins with a key column: each fetch of an instance scans the table', shard.source);
                fix := format('CREATE INDEX CONCURRENTLY ON %s (%s)', shard.source,
                    (SELECT string_agg(quote_ident(k), ', ') FROM unnest(shard.key) k));
                RETURN NEXT;
            END IF;
        END LOOP;
    END
    $$;
COMMENT ON FUNCTION foreshard.health_shards() IS 'the part of health() about shards';

CREATE FUNCTION foreshard.health() RETURNS TABLE ("check" text, status text, detail text, fix text)
    LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
        SELECT * FROM foreshard.health_server()
        UNION ALL SELECT * FROM foreshard.health_edges()
        UNION ALL SELECT * FROM foreshard.health_shards()
    $$;
COMMENT ON FUNCTION foreshard.health() IS 'every misconfiguration of this origin; status is ok, warn or fail, fix the statement that mends it';

-- Nobody but the owner until told otherwise.

REVOKE ALL ON SCHEMA foreshard FROM PUBLIC;
REVOKE ALL ON ALL TABLES IN SCHEMA foreshard FROM PUBLIC;
REVOKE ALL ON ALL SEQUENCES IN SCHEMA foreshard FROM PUBLIC;
REVOKE ALL ON ALL FUNCTIONS IN SCHEMA foreshard FROM PUBLIC;

