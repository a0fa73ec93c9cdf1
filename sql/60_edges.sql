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
        DELETE FROM foreshard.hint h WHERE h.edge = register_edge.name;
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
        DELETE FROM foreshard.hint h WHERE h.edge = remove_edge.name;
        IF old.name IS NULL THEN
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
        segment constant int2 := foreshard.log_segment();
    BEGIN
        IF jsonb_typeof(batch) IS DISTINCT FROM 'array' THEN
            RAISE EXCEPTION 'batch must be a JSON array of executions' USING ERRCODE = 'invalid_parameter_value';
        END IF;
        IF jsonb_array_length(batch) > 10000 THEN
            RAISE EXCEPTION 'a batch has at most 10000 executions' USING ERRCODE = 'program_limit_exceeded';
        END IF;
        INSERT INTO foreshard.executions (edge, function_id, started_at, tables, filters, shards, served_from, wait_us, bytes, segment)
            SELECT append_executions.edge, e.function_id, e.started_at, coalesce(e.tables, '{}'), coalesce(e.filters, '{}'),
                coalesce(e.shards, '{}'), e.served_from, e.wait_us, e.bytes, segment
            FROM jsonb_to_recordset(batch) AS e(function_id text, started_at timestamptz, tables text[], filters jsonb,
                shards text[], served_from text, wait_us bigint, bytes bigint)
            -- 'infinity' is no time that anything ran at, and no reader of the log could make anything of it.
            WHERE isfinite(e.started_at) IS DISTINCT FROM false;
        GET DIAGNOSTICS written = ROW_COUNT;
        RETURN written;
    END
    $$;
COMMENT ON FUNCTION foreshard.append_executions(text, jsonb) IS 'log_executions after the caller was checked';
