-- What is wrong with query shards; a part of health(), see 85_health.sql.

CREATE FUNCTION foreshard.health_queries() RETURNS TABLE ("check" text, status text, detail text, fix text)
    LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp
    AS $$
    DECLARE
        shard record;
        part record;
    BEGIN
        FOR shard IN SELECT s.name, s.owner, v.defect, EXISTS (SELECT FROM pg_roles r WHERE r.oid = s.owner) AS owner_exists,
                NOT EXISTS (SELECT FROM foreshard.shard_query q JOIN foreshard.shard_source d USING (shard)
                    WHERE q.shard = s.name AND q.query_tree IS NOT NULL) AS underived, s.defect AS kept_defect
            FROM foreshard.shard s JOIN foreshard.shards v USING (name) WHERE s.source IS NULL ORDER BY s.name
        LOOP
            "check" := 'shard ' || quote_ident(shard.name);
            status := 'fail';
            fix := format('SELECT foreshard.create_query_shard(%L, …, or_replace => true), or SELECT foreshard.drop_shard(%L)', shard.name, shard.name);
            SELECT d.source, c.relrowsecurity INTO part FROM foreshard.shard_source d JOIN pg_class c ON c.oid = d.source
                WHERE d.shard = shard.name AND (c.relrowsecurity OR c.relpersistence <> 'p') LIMIT 1;
            IF FOUND THEN
                detail := format(CASE WHEN part.relrowsecurity THEN '%s has row-level security: the shard is not given out'
                    ELSE 'changes of %s are not logged' END, part.source);
                fix := format(CASE WHEN part.relrowsecurity THEN 'ALTER TABLE %s DISABLE ROW LEVEL SECURITY'
                    ELSE 'ALTER TABLE %s SET LOGGED' END, part.source);
                RETURN NEXT;
                CONTINUE;
            END IF;
            IF shard.defect IS NOT NULL OR NOT shard.owner_exists THEN
                detail := coalesce(shard.defect, 'the role that defined it is gone');
                -- A dump restores what a query may need, as primary keys, after the definitions.
                IF shard.underived AND shard.owner_exists THEN
                    fix := 'SELECT foreshard.rederive()' || CASE WHEN shard.kept_defect IS NULL THEN '' ELSE ', or ' || fix END;
                END IF;
                RETURN NEXT;
                CONTINUE;
            END IF;
            SELECT d.source, foreshard.lost_right(shard.owner, d.source, NULL) AS mend INTO part FROM foreshard.shard_source d
                WHERE d.shard = shard.name AND foreshard.lost_right(shard.owner, d.source, NULL) IS NOT NULL LIMIT 1;
            IF FOUND THEN
                detail := format('%s, who defined it, may no longer read %s: the shard is not given out', shard.owner, part.source);
                fix := part.mend;
                RETURN NEXT;
                CONTINUE;
            END IF;
            SELECT d.source, foreshard.distrusted_cast(d.source, shard.owner) AS mend INTO part FROM foreshard.shard_source d
                WHERE d.shard = shard.name AND foreshard.distrusted_cast(d.source, shard.owner) IS NOT NULL LIMIT 1;
            IF FOUND THEN
                detail := format('a type in %s has a cast to json, a function of a role that may not act as %s: the shard is not given out',
                    part.source, shard.owner);
                fix := part.mend;
                RETURN NEXT;
                CONTINUE;
            END IF;
            status := 'ok';
            detail := 'changes of rows can be told apart';
            fix := NULL;
            SELECT f.detail, f.fix INTO part FROM foreshard.identity_fault(shard.name) f;
            IF FOUND THEN
                status := 'warn';
                detail := part.detail;
                fix := part.fix;
            END IF;
            RETURN NEXT;

            FOR part IN SELECT d.source, c.relkind, min(d.key_attnums) AS key FROM foreshard.shard_source d JOIN pg_class c ON c.oid = d.source
                WHERE d.shard = shard.name AND cardinality(d.key_attnums) > 0 AND NOT foreshard.has_index(d.source, d.key_attnums)
                GROUP BY d.source, c.relkind ORDER BY d.source::text
            LOOP
                "check" := format('index for shard %I', shard.name);
                status := 'warn';
                detail := format('no index of %s begins with a column that holds a parameter: each fetch of an instance scans the table', part.source);
                fix := format('CREATE INDEX %sON %s (%s)', CASE part.relkind WHEN 'p' THEN '' ELSE 'CONCURRENTLY ' END, part.source,
                    (SELECT string_agg(quote_ident(a.attname), ', ' ORDER BY array_position(part.key, a.attnum)) FROM pg_attribute a
                        WHERE a.attrelid = part.source AND a.attnum = ANY (part.key)));
                RETURN NEXT;
            END LOOP;
        END LOOP;
    END
    $$;
COMMENT ON FUNCTION foreshard.health_queries() IS 'the part of health() about query shards';
