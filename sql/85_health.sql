-- What is wrong with this origin, and the statement that mends it.

-- From the release notes. Releases of one day have one set of fixes; for a major that began later the number of its first release
-- with the fix is 0.
CREATE FUNCTION foreshard.decoding_bugs(release int) RETURNS TABLE (bug text, mended text)
    LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE SET search_path = pg_catalog, pg_temp
    AS $$
        SELECT b.bug, format('%s.%s', release / 10000, b.mended[release / 10000 - 14])
        FROM (VALUES
            ('{20,16,12,7}'::int[], 'after a subtransaction with DDL was rolled back, rows may be decoded by what it had altered'),
            ('{20,16,12,7}', 'a new slot may begin with a snapshot that takes running transactions for committed'),
            ('{19,15,11,6}', 'any role with REPLICATION can load any library as an output plugin'),
            ('{16,12,8,2}', 'a new slot may be invalidated by a checkpoint at the same time'),
            ('{14,10,6,0}', 'log that a slot needs may be removed during a checkpoint, and a crash can leave a decoder waiting forever'),
            ('{13,9,5,0}', 'changes after concurrent DDL may be decoded by the definition before it'),
            ('{10,6,2,0}', 'a slot may go back behind log that is gone already'),
            ('{8,4,0,0}', 'a new slot may begin within a transaction, and decode it wrongly'),
            ('{6,2,0,0}', 'a transaction with DDL in a subtransaction may be decoded by the wrong definitions'),
            ('{2,0,0,0}', 'decoding may use memory that was freed')) AS b(mended, bug)
        WHERE release % 10000 < b.mended[release / 10000 - 14]
    $$;
COMMENT ON FUNCTION foreshard.decoding_bugs(int) IS
    'known bugs of logical decoding in a release of PostgreSQL 15 to 18, given as server_version_num, and the minor releases that mend them';

CREATE FUNCTION foreshard.health_server() RETURNS TABLE ("check" text, status text, detail text, fix text)
    LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp
    AS $$
    DECLARE
        setting text := current_setting('wal_level');
        plugins text := current_setting('output_plugin_libraries', true);
        listed text[] := regexp_split_to_array(plugins, '\s*,\s*');
        edges bigint := (SELECT count(*) FROM foreshard.edge);
        release constant int := current_setting('server_version_num');
        bugs record;
        used bigint;
        room bigint;
    BEGIN
        SELECT count(*) AS known, string_agg(b.bug, '; ' ORDER BY b.bug) AS list,
                format('%s.%s', release / 10000, max(split_part(b.mended, '.', 2)::int)) AS mended INTO bugs
            FROM foreshard.decoding_bugs(release) b;
        RETURN QUERY SELECT 'minor release', CASE bugs.known WHEN 0 THEN 'ok' ELSE 'warn' END,
            CASE bugs.known WHEN 0 THEN format('no bug of logical decoding is known of release %s.%s', release / 10000, release % 10000)
                ELSE format('release %s.%s has known bugs of logical decoding: %s', release / 10000, release % 10000, bugs.list) END,
            CASE WHEN bugs.known > 0 THEN format('Update PostgreSQL to %s or a later minor release, and restart the server.', bugs.mended) END;

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

        -- An edge reports a commit as flushed when readers see it, and they see it when every listed standby has flushed it: with "on"
        -- the two wait for each other.
        setting := current_setting('synchronous_commit');
        RETURN QUERY SELECT 'synchronous_commit',
            CASE WHEN setting = 'on' AND strict THEN 'fail' WHEN setting = 'off' THEN 'warn' ELSE 'ok' END,
            CASE WHEN setting = 'on' AND strict THEN 'an edge is listed in synchronous_standby_names, and commits with synchronous_commit = on wait for it without end'
                WHEN setting = 'off' THEN 'commits reach the stream only when the log is flushed, up to 0.6 s later'
                ELSE format('synchronous_commit is %s', setting) END,
            CASE WHEN setting IN ('on', 'off') AND strict THEN 'ALTER SYSTEM SET synchronous_commit = remote_apply; -- then SELECT pg_reload_conf()'
                WHEN setting = 'off' THEN 'ALTER SYSTEM SET synchronous_commit = on; -- then SELECT pg_reload_conf()' END
            FROM (SELECT EXISTS (SELECT FROM foreshard.edge e, regexp_split_to_table(current_setting('synchronous_standby_names'), '[(),]') AS standby
                WHERE lower(btrim(standby, ' "')) IN (lower(e.name), '*')) AS strict) AS mode;

        setting := (SELECT pg_encoding_to_char(encoding) FROM pg_database WHERE datname = current_database());
        RETURN QUERY SELECT 'encoding', CASE setting WHEN 'UTF8' THEN 'ok' ELSE 'fail' END,
            format('the database has encoding %s; values travel as UTF-8', setting),
            CASE WHEN setting <> 'UTF8' THEN 'Create a database with ENCODING ''UTF8'' and move the data: pg_dump | pg_restore' END;
    END
    $$;
COMMENT ON FUNCTION foreshard.health_server() IS 'the part of health() about the server';

-- What servers say of a slot differs: 16 has a flag for slots that a standby's recovery invalidated, 17 and later give a reason.
CREATE FUNCTION foreshard.slot_loss(slot jsonb) RETURNS text
    LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp
    AS $$
        SELECT CASE coalesce(slot ->> 'invalidation_reason', CASE WHEN (slot ->> 'conflicting')::boolean THEN 'conflicting' END)
            WHEN 'rows_removed' THEN 'conflicting: rows of catalogs that it needs were removed while the server was a standby'
            WHEN 'wal_level_insufficient' THEN 'conflicting: wal_level was not logical at the primary while the server was a standby'
            WHEN 'conflicting' THEN 'conflicting: what it needs was removed while the server was a standby'
            WHEN 'idle_timeout' THEN 'nobody read it for longer than idle_replication_slot_timeout'
            ELSE 'the log it needs is gone' END
    $$;
COMMENT ON FUNCTION foreshard.slot_loss(jsonb) IS 'why a slot, given as its row in pg_replication_slots, was invalidated';

CREATE FUNCTION foreshard.retained_log_limit() RETURNS bigint
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
    AS $$ SELECT pg_size_bytes(coalesce(nullif(current_setting('foreshard.retained_log_warning', true), ''), '1GB')) $$;
COMMENT ON FUNCTION foreshard.retained_log_limit() IS
    'bytes of log that a slot may hold back before health() warns: the setting foreshard.retained_log_warning, 1GB by default';

CREATE FUNCTION foreshard.health_edges() RETURNS TABLE ("check" text, status text, detail text, fix text)
    LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp
    AS $$
    DECLARE
        edge record;
        worrying constant bigint := foreshard.retained_log_limit();
    BEGIN
        FOR edge IN SELECT e.*, r.oid IS NOT NULL AS role_exists, r.rolname, r.rolreplication OR r.rolsuper AS may_stream, r.rolcanlogin,
                (SELECT foreshard.slot_loss(to_jsonb(s)) FROM pg_replication_slots s WHERE s.slot_name = e.slot_name) AS reason
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
                detail := format('slot %s is lost (%s): the sidecar makes a new one when it connects, and drops its copies', edge.slot_name, edge.reason);
                fix := format('SELECT pg_drop_replication_slot(%L)', edge.slot_name);
            ELSIF edge.wal_status = 'unreserved' THEN
                status := 'fail';
                detail := format('slot %s is further behind than max_slot_wal_keep_size and will be lost at the next checkpoint; it holds back %s of log',
                    edge.slot_name, pg_size_pretty(edge.retained_wal_bytes));
                fix := 'ALTER SYSTEM SET max_slot_wal_keep_size = -1; -- then SELECT pg_reload_conf(), and see to the sidecar';
            ELSIF NOT edge.active THEN
                status := 'warn';
                detail := format('nobody reads slot %s, which holds back %s of log', edge.slot_name, pg_size_pretty(edge.retained_wal_bytes));
                fix := format('Start the sidecar, or if the edge is gone: SELECT foreshard.drop_edge(%L)', edge.name);
            ELSIF edge.retained_wal_bytes > worrying THEN
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
            ELSIF NOT edge.rolcanlogin THEN
                status := 'fail';
                detail := format('role %I may not log in', edge.rolname);
                fix := format('ALTER ROLE %I LOGIN', edge.rolname);
            ELSIF NOT has_database_privilege(edge.role, current_database(), 'CONNECT') THEN
                status := 'fail';
                detail := format('role %I may not connect to this database', edge.rolname);
                fix := format('GRANT CONNECT ON DATABASE %I TO %I', current_database(), edge.rolname);
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

CREATE FUNCTION foreshard.lost_right(owner regrole, source regclass, columns int2[]) RETURNS text
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
    AS $$
        SELECT CASE
            WHEN NOT has_schema_privilege(owner, c.relnamespace, 'USAGE') THEN format('GRANT USAGE ON SCHEMA %s TO %s', c.relnamespace::regnamespace, owner)
            WHEN columns IS NULL AND NOT has_any_column_privilege(owner, source, 'SELECT')
                OR EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = source AND a.attnum = ANY (columns) AND a.attnum > 0
                    AND NOT a.attisdropped AND NOT has_column_privilege(owner, source, a.attnum, 'SELECT'))
                THEN format('GRANT SELECT ON %s TO %s', source, owner)
            END
        FROM pg_class c WHERE c.oid = source
    $$;
COMMENT ON FUNCTION foreshard.lost_right(regrole, regclass, int2[]) IS
    'the statement that gives the owner of a shard the right to read these columns of its table (NULL: any), NULL if he has it';

CREATE FUNCTION foreshard.distrusted_cast(source regclass, owner regrole) RETURNS text
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
    AS $$
        WITH RECURSIVE types(type) AS (
            SELECT a.atttypid FROM pg_attribute a WHERE a.attrelid = source AND a.attnum > 0 AND NOT a.attisdropped
            UNION
            SELECT n.type FROM types t JOIN pg_type y ON y.oid = t.type CROSS JOIN LATERAL (
                SELECT unnest(ARRAY[y.typelem, y.typbasetype])
                UNION ALL SELECT a.atttypid FROM pg_attribute a WHERE a.attrelid = y.typrelid AND a.attnum > 0 AND NOT a.attisdropped) AS n(type))
        SELECT format('DROP CAST (%s AS json)', format_type(c.castsource, NULL))
        FROM types t JOIN pg_cast c ON c.castsource = t.type AND c.casttarget = 'json'::regtype AND c.castsource >= 16384
        JOIN pg_proc p ON p.oid = c.castfunc
        WHERE NOT pg_has_role(p.proowner, owner, 'USAGE') LIMIT 1
    $$;
COMMENT ON FUNCTION foreshard.distrusted_cast(regclass, regrole) IS
    'the statement that removes a cast to json in a table''s columns whose function belongs to a role that may not act as a shard''s owner, NULL without one';

CREATE FUNCTION foreshard.has_index(source regclass, columns int2[]) RETURNS boolean
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
    AS $$
        SELECT EXISTS (SELECT FROM pg_index i WHERE i.indrelid = source AND i.indisvalid AND i.indpred IS NULL
            AND i.indkey[0] = ANY (columns))
    $$;
COMMENT ON FUNCTION foreshard.has_index(regclass, int2[]) IS 'whether an index of all rows begins with one of these columns';

CREATE FUNCTION foreshard.health_shards() RETURNS TABLE ("check" text, status text, detail text, fix text)
    LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp
    AS $$
    DECLARE
        shard record;
        part record;
    BEGIN
        FOR shard IN SELECT s.*, v.defect AS fault, c.relkind, c.relrowsecurity, c.relpersistence,
                EXISTS (SELECT FROM pg_roles r WHERE r.oid = s.owner) AS owner_exists
            FROM foreshard.shard s JOIN foreshard.shards v USING (name) LEFT JOIN pg_class c ON c.oid = s.source
            WHERE s.source IS NOT NULL ORDER BY s.name
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
            fix := foreshard.lost_right(shard.owner, shard.source, foreshard.decisive_columns(shard.name) || foreshard.primary_key(shard.source)
                || coalesce(shard.column_attnums, (SELECT array_agg(a.attnum) FROM pg_attribute a WHERE a.attrelid = shard.source)));
            IF fix IS NOT NULL THEN
                status := 'fail';
                detail := format('%s, who defined it, may no longer read %s: the shard is not given out', shard.owner, shard.source);
                RETURN NEXT;
                CONTINUE;
            END IF;
            fix := foreshard.distrusted_cast(shard.source, shard.owner);
            IF fix IS NOT NULL THEN
                status := 'fail';
                detail := format('a type in %s has a cast to json, a function of a role that may not act as %s: the shard is not given out',
                    shard.source, shard.owner);
                RETURN NEXT;
                CONTINUE;
            END IF;
            status := 'ok';
            detail := format('on %s, changes of rows can be told apart', shard.source);
            SELECT f.detail, f.fix INTO part FROM foreshard.identity_fault(shard.name) f;
            IF FOUND THEN
                status := 'warn';
                detail := part.detail;
                fix := part.fix;
            END IF;
            RETURN NEXT;

            IF cardinality(shard.key_attnums) > 0 AND NOT foreshard.has_index(shard.source, shard.key_attnums) THEN
                "check" := format('index for shard %I', shard.name);
                status := 'warn';
                detail := format('no index of %s begins with a key column: each fetch of an instance scans the table', shard.source);
                fix := format('CREATE INDEX %sON %s (%s)', CASE shard.relkind WHEN 'p' THEN '' ELSE 'CONCURRENTLY ' END, shard.source,
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
        UNION ALL SELECT * FROM foreshard.health_queries()
        UNION ALL SELECT * FROM foreshard.health_names()
        UNION ALL SELECT * FROM foreshard.health_failures()
        UNION ALL SELECT * FROM foreshard.health_fetches()
        UNION ALL SELECT * FROM foreshard.health_log()
        UNION ALL SELECT * FROM foreshard.health_derived()
        UNION ALL SELECT * FROM foreshard.health_remains()
    $$;
COMMENT ON FUNCTION foreshard.health() IS 'every misconfiguration of this origin; status is ok, warn or fail, fix the statement that mends it';
