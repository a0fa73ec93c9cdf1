-- Whether the log holds of a row before its change what shards need to know of it; a part of health(), see 85_health.sql. A table has one
-- replica identity, so what mends it for one shard has to do for all that read the table: else the fix of each would undo that of another.

CREATE FUNCTION foreshard.deciding_columns(shard text, sources oid[]) RETURNS TABLE (source oid, attname name, place bigint)
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
    AS $$
        SELECT r.source, a.attname, row_number() OVER (ORDER BY n.second, r.shard, n.place)
        FROM (
            SELECT s.name, s.source::oid, s.key_attnums, s.predicate_tree FROM foreshard.shard s WHERE s.source IS NOT NULL
            UNION ALL SELECT d.shard, d.source::oid, d.key_attnums, d.predicate_tree FROM foreshard.shard_source d) AS r(shard, source, keys, tree)
        CROSS JOIN LATERAL (
            SELECT k.attnum, false, k.ordinality FROM unnest(r.keys) WITH ORDINALITY AS k(attnum, ordinality)
            UNION ALL SELECT m[1]::int2, true, m[1]::bigint FROM regexp_matches(r.tree, ':varattno (\d+)', 'g') m) AS n(attnum, second, place)
        JOIN pg_attribute a ON a.attrelid = r.source AND a.attnum = n.attnum AND a.attnum > 0 AND NOT a.attisdropped
        WHERE r.shard = deciding_columns.shard OR r.source = ANY (sources)
    $$;
COMMENT ON FUNCTION foreshard.deciding_columns(text, oid[]) IS
    'columns of keys and predicates, by the table that a shard names: of this shard, or of all shards of these tables; keys first';

CREATE FUNCTION foreshard.identity_gaps(shard text) RETURNS TABLE (part regclass, missing text)
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
    AS $$
        SELECT g.part, string_agg(quote_ident(g.attname), ', ' ORDER BY g.place)
        FROM (
            SELECT c.oid::regclass AS part, a.attname, min(d.place) AS place
            FROM foreshard.deciding_columns(identity_gaps.shard, NULL) d
            JOIN pg_class c ON c.relkind = 'r' AND c.relreplident <> 'f'
                AND (c.oid = d.source OR c.oid IN (SELECT t.relid FROM pg_partition_tree(d.source) t))
            JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = d.attname
            WHERE NOT EXISTS (SELECT FROM pg_index i WHERE i.indrelid = c.oid
                AND CASE c.relreplident WHEN 'd' THEN i.indisprimary WHEN 'i' THEN i.indisreplident END
                AND a.attnum = ANY (i.indkey[:i.indnkeyatts - 1]))
            GROUP BY c.oid, a.attname) AS g
        GROUP BY g.part
    $$;
COMMENT ON FUNCTION foreshard.identity_gaps(text) IS
    'tables and partitions of a shard of which the log lacks columns that decide where a row belonged before its change';

-- By the catalogs alone: to try a type's comparison would run what its owner wrote.
CREATE FUNCTION foreshard.is_sortable(type oid) RETURNS boolean
    LANGUAGE sql STABLE STRICT SET search_path = pg_catalog, pg_temp
    AS $$
        WITH RECURSIVE inner_types AS (
            SELECT t.oid, t.typtype, t.typcategory, t.typbasetype, t.typelem FROM pg_type t WHERE t.oid = type
            UNION ALL
            SELECT t.oid, t.typtype, t.typcategory, t.typbasetype, t.typelem FROM inner_types i JOIN pg_type t
                ON t.oid = CASE WHEN i.typtype = 'd' THEN i.typbasetype WHEN i.typcategory = 'A' THEN i.typelem END)
        SELECT EXISTS (SELECT FROM inner_types i JOIN pg_opclass o ON o.opcdefault
                AND o.opcmethod = (SELECT m.oid FROM pg_am m WHERE m.amname = 'btree')
            WHERE i.typtype <> 'd' AND i.typcategory <> 'A' AND (o.opcintype = i.oid
                OR o.opcintype = CASE i.typtype WHEN 'e' THEN 'anyenum'::regtype WHEN 'r' THEN 'anyrange'::regtype END
                OR EXISTS (SELECT FROM pg_cast k WHERE k.castsource = i.oid AND k.casttarget = o.opcintype
                    AND k.castmethod = 'b' AND k.castcontext = 'i')))
    $$;
COMMENT ON FUNCTION foreshard.is_sortable(oid) IS 'whether a btree index can be made on a column of this type; false for composite types';

CREATE FUNCTION foreshard.identity_fix(part regclass) RETURNS text
    LANGUAGE plpgsql STABLE STRICT SET search_path = pg_catalog, pg_temp
    AS $$
    DECLARE
        class pg_class;
        old record;
        needed int2[];
        fitting name;
        stem text;
        index text;
        take int := 1;
        afterwards text;
    BEGIN
        SELECT * INTO class FROM pg_class c WHERE c.oid = part;
        -- An index that a former fix made, unless what foreshard advise has noted would drop it.
        SELECT c.relname, i.indkey::int2[] AS attnums INTO old FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
            WHERE i.indrelid = part AND i.indisreplident AND c.relname ~ '^foreshard_.*_identity(_[0-9]+)?$'
                AND NOT EXISTS (SELECT FROM pg_constraint k WHERE k.conindid = i.indexrelid)
                AND NOT EXISTS (SELECT FROM foreshard.advice v WHERE position(c.relname IN v.undo) > 0);
        afterwards := CASE WHEN old.relname IS NOT NULL THEN format('; DROP INDEX IF EXISTS %s.%I', class.relnamespace::regnamespace, old.relname) ELSE '' END;
        -- Its order is kept, because fetches may use it. Then come keys, for the same reason.
        needed := ARRAY(SELECT a.attnum
            FROM foreshard.deciding_columns(NULL, part::oid || ARRAY(SELECT p.relid::oid FROM pg_partition_ancestors(part) p)) d
            JOIN pg_attribute a ON a.attrelid = part AND a.attname = d.attname
            GROUP BY a.attnum ORDER BY array_position(old.attnums, a.attnum), min(d.place));
        needed := needed || ARRAY(SELECT k FROM unnest(foreshard.primary_key(part)) k WHERE k <> ALL (needed));
        SELECT c.relname INTO fitting FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
            WHERE i.indrelid = part AND i.indisunique AND i.indimmediate AND i.indisvalid AND i.indpred IS NULL AND i.indexprs IS NULL
                AND needed <@ i.indkey[:i.indnkeyatts - 1]::int2[]
                AND NOT EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = part AND NOT a.attnotnull
                    AND a.attnum = ANY (i.indkey[:i.indnkeyatts - 1]::int2[]))
            ORDER BY i.indnkeyatts, c.relname LIMIT 1;
        IF FOUND THEN
            RETURN format('ALTER TABLE %s REPLICA IDENTITY USING INDEX %I', part, fitting) || afterwards;
        END IF;
        -- Such an index needs columns that are NOT NULL and can be sorted, and a key to make it unique.
        IF foreshard.primary_key(part) = '{}' OR cardinality(needed) > current_setting('max_index_keys')::int
            OR EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = part AND a.attnum = ANY (needed)
                AND (NOT a.attnotnull OR NOT foreshard.is_sortable(a.atttypid))) THEN
            RETURN format('ALTER TABLE %s REPLICA IDENTITY FULL', part);
        END IF;
        -- A name has 63 bytes.
        stem := class.relname;
        IF octet_length(stem) > 40 THEN
            stem := (SELECT left(stem, n) FROM generate_series(31, 1, -1) n WHERE octet_length(left(stem, n)) <= 31 LIMIT 1)
                || '_' || left(md5(stem), 8);
        END IF;
        LOOP
            index := format('foreshard_%s_identity', stem) || CASE WHEN take > 1 THEN '_' || take ELSE '' END;
            EXIT WHEN NOT EXISTS (SELECT FROM pg_class c WHERE c.relnamespace = class.relnamespace AND c.relname = index);
            take := take + 1;
        END LOOP;
        -- Every shard of the table names the same statements, and each may be run: IF NOT EXISTS.
        RETURN format('CREATE UNIQUE INDEX IF NOT EXISTS %I ON %s (%s); ALTER TABLE %2$s REPLICA IDENTITY USING INDEX %1$I', index, part,
                (SELECT string_agg(quote_ident(a.attname), ', ' ORDER BY n.ordinality) FROM unnest(needed) WITH ORDINALITY AS n(attnum, ordinality)
                    JOIN pg_attribute a ON a.attrelid = part AND a.attnum = n.attnum))
            || afterwards;
    END
    $$;
COMMENT ON FUNCTION foreshard.identity_fix(regclass) IS
    'the statements that give a table the replica identity that all shards that read it need; they may be run again';

CREATE FUNCTION foreshard.identity_fault(shard text) RETURNS TABLE (detail text, fix text)
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
    AS $$
        SELECT format('the log does not hold %s of rows of %s%s before an UPDATE or DELETE, which then invalidates the whole shard',
                (array_agg(g.missing ORDER BY g.part::text))[1], min(g.part::text),
                CASE WHEN count(*) > 1 THEN format(' (and %s more)', count(*) - 1) ELSE '' END),
            string_agg(foreshard.identity_fix(g.part), '; ' ORDER BY g.part::text)
        FROM foreshard.identity_gaps(identity_fault.shard) g HAVING count(*) > 0
    $$;
COMMENT ON FUNCTION foreshard.identity_fault(text) IS 'what the log lacks for a shard, and the statements that mend it; no row if nothing';
