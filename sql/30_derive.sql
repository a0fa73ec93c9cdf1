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

-- Text that is kept is parsed as it was written, whatever the session's settings; pg_extension/src/pg/settings.rs has the same ones.
CREATE FUNCTION foreshard.shard_derive() RETURNS trigger
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
    SET datestyle = 'ISO, MDY' SET intervalstyle = 'postgres' SET timezone = 'UTC' SET extra_float_digits = 1
    SET bytea_output = 'hex' SET xmlbinary = 'base64' SET xmloption = 'content' SET lc_monetary = 'C'
    SET quote_all_identifiers = off SET standard_conforming_strings = on SET array_nulls = on SET transform_null_equals = off
    AS $$
    BEGIN
        -- What a query depends on is derived with the query.
        IF NEW.source IS NULL THEN
            RETURN NEW;
        END IF;
        NEW.defect := NULL;
        NEW.predicate_tree := NULL;
        NEW.source_name := coalesce(foreshard.qualified_name(NEW.source), NEW.source_name);
        NEW.key_attnums := foreshard.attnums_of(NEW.source, NEW.key);
        NEW.column_attnums := foreshard.attnums_of(NEW.source, NEW.columns);
        IF array_position(NEW.key_attnums, NULL) IS NOT NULL OR array_position(NEW.column_attnums, NULL) IS NOT NULL THEN
            NEW.defect := format('a column of shard %I is missing from %s', NEW.name, NEW.source);
        ELSIF NEW.predicate IS NOT NULL THEN
            SELECT p.tree, p.canonical INTO STRICT NEW.predicate_tree, NEW.predicate
            FROM foreshard.compile_predicate(NEW.source, NEW.predicate, NEW.owner) AS p;
        END IF;
        RETURN NEW;
    EXCEPTION WHEN lock_not_available OR deadlock_detected OR serialization_failure THEN
        RAISE;
    WHEN OTHERS THEN
        -- One definition that no longer fits must not keep a dump with a hundred others from being restored.
        NEW.defect := left(SQLERRM, 500);
        NEW.predicate_tree := NULL;
        RETURN NEW;
    END
    $$;
CREATE TRIGGER derive BEFORE INSERT OR UPDATE ON foreshard.shard
    FOR EACH ROW EXECUTE FUNCTION foreshard.shard_derive();
ALTER TABLE foreshard.shard ENABLE ALWAYS TRIGGER derive;

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
