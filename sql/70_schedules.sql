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

-- Copies are kept, and the stream names them, under one spelling of each key value; what is prefetched under another is found by nobody. Values
-- are read under the settings of a fetch.
CREATE FUNCTION foreshard.misspelled(entries jsonb) RETURNS TABLE (at bigint, place bigint, instance text, shard text, types oid[], typmods int4[],
        spelled text)
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp SET datestyle = 'ISO, MDY' SET timezone = 'UTC'
    AS $$
        -- Without those whose columns are gone: such a shard can't be fetched, and health() says so.
        WITH keyed AS MATERIALIZED (
            SELECT s.name, t.types, t.typmods FROM foreshard.shard s CROSS JOIN LATERAL (
                SELECT array_agg(a.atttypid ORDER BY k.ordinality) AS types, array_agg(a.atttypmod ORDER BY k.ordinality) AS typmods
                FROM unnest(s.key_attnums) WITH ORDINALITY AS k(attnum, ordinality)
                JOIN pg_attribute a ON a.attrelid = s.source AND a.attnum = k.attnum AND NOT a.attisdropped
                UNION ALL
                SELECT q.param_types::oid[], array_fill(-1, ARRAY[cardinality(q.param_types)]) FROM foreshard.shard_query q WHERE q.shard = s.name) AS t
            WHERE cardinality(s.key) > 0 AND cardinality(t.types) = cardinality(s.key))
        SELECT e.ordinality - 1, i.ordinality, i.instance, k.name, k.types, k.typmods, c.spelled
            FROM jsonb_array_elements(entries) WITH ORDINALITY AS e(value, ordinality)
            CROSS JOIN LATERAL jsonb_array_elements_text(e.value -> 'shard_list') WITH ORDINALITY AS i(instance, ordinality)
            JOIN keyed k ON k.name = foreshard.instance_shard(i.instance) COLLATE "C"
            CROSS JOIN LATERAL (SELECT foreshard.instance_spelled(i.instance, k.types, k.typmods) AS spelled OFFSET 0) AS c
            WHERE c.spelled IS DISTINCT FROM i.instance
    $$;
COMMENT ON FUNCTION foreshard.misspelled(jsonb) IS
    'instances in a schedule whose key values have another spelling where they are kept, or (NULL) are not of the columns'' types';

CREATE FUNCTION foreshard.spelled_entries(entries jsonb) RETURNS jsonb
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET datestyle = 'ISO, MDY' SET timezone = 'UTC'
    AS $$
    DECLARE
        bad record;
        type text;
    BEGIN
        SELECT m.*, foreshard.instance_misfit(m.instance, m.types, m.typmods) AS misfit INTO bad
            FROM foreshard.misspelled(entries) m ORDER BY m.spelled IS NOT NULL, m.at, m.place LIMIT 1;
        IF NOT FOUND THEN
            RETURN entries;
        END IF;
        IF bad.spelled IS NULL THEN
            SELECT format_type(bad.types[array_position(s.key, bad.misfit::name)], NULL) INTO type FROM foreshard.shard s WHERE s.name = bad.shard;
            RAISE EXCEPTION 'entry % of the schedule: shard_list has %: the value of key column % of shard % is not of type %',
                    bad.at, quote_literal(left(bad.instance, 256)), quote_ident(bad.misfit), quote_ident(bad.shard), type
                USING ERRCODE = 'invalid_parameter_value',
                    HINT = 'Write it as PostgreSQL would write a value of that type; dates and times in ISO style and UTC.',
                    -- foreshard plan takes these out: it may have learned them before the column got another type.
                    DETAIL = (SELECT jsonb_agg(m.instance) FROM (SELECT DISTINCT m.instance FROM foreshard.misspelled(entries) m
                        WHERE m.spelled IS NULL LIMIT 1000) AS m);
        END IF;
        RETURN (WITH other AS MATERIALIZED (SELECT m.at, m.place, m.spelled FROM foreshard.misspelled(entries) m)
            SELECT jsonb_agg(jsonb_set(l.value, '{shard_list}', l.list) ORDER BY l.ordinality) FROM (
                SELECT e.ordinality, e.value, jsonb_agg(coalesce(o.spelled, i.instance) ORDER BY i.ordinality) AS list
                FROM jsonb_array_elements(entries) WITH ORDINALITY AS e(value, ordinality)
                CROSS JOIN LATERAL jsonb_array_elements_text(e.value -> 'shard_list') WITH ORDINALITY AS i(instance, ordinality)
                LEFT JOIN other o ON o.at = e.ordinality - 1 AND o.place = i.ordinality
                GROUP BY e.ordinality, e.value) AS l);
    END
    $$;
COMMENT ON FUNCTION foreshard.spelled_entries(jsonb) IS
    'a schedule with key values in the spelling under which copies are kept; refuses values that are not of their column''s type';

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
        entries := foreshard.spelled_entries(entries);
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
