-- What is known of when functions run. Whoever may EXECUTE these has rows fetched ahead of demand, and nothing else.

CREATE FUNCTION foreshard.hint_function(function_id text, cron text, edge text DEFAULT NULL, confidence float8 DEFAULT 0.9) RETURNS bigint
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
    DECLARE
        wrong text;
        declared bigint;
    BEGIN
        IF function_id IS NULL OR cron IS NULL OR confidence IS NULL THEN
            RAISE EXCEPTION 'function_id, cron and confidence must not be NULL' USING ERRCODE = 'null_value_not_allowed';
        END IF;
        IF octet_length(function_id) NOT BETWEEN 1 AND 256 THEN
            RAISE EXCEPTION 'a function_id has 1 to 256 bytes' USING ERRCODE = 'invalid_name';
        END IF;
        IF NOT confidence BETWEEN 0 AND 1 THEN
            RAISE EXCEPTION 'confidence is between 0 and 1, not %', confidence USING ERRCODE = 'numeric_value_out_of_range';
        END IF;
        wrong := foreshard.cron_fault(cron);
        IF wrong IS NOT NULL THEN
            RAISE EXCEPTION 'cron expression %: %', quote_literal(left(cron, 100)), wrong USING ERRCODE = 'invalid_parameter_value',
                HINT = 'Write minute, hour, day of month, month and day of week, in the edge''s local time, as in ''30 6 * * 1-5''.';
        END IF;
        IF NOT EXISTS (SELECT FROM foreshard.mapping m WHERE m.function_id = hint_function.function_id COLLATE "C") THEN
            RAISE EXCEPTION 'function % is not mapped', quote_literal(function_id) USING ERRCODE = 'undefined_object',
                HINT = 'Map it with foreshard.map_function first; foreshard.function_shards lists the mappings.';
        END IF;
        -- Held, so that whoever drops it waits, and removes this hint as well.
        PERFORM FROM foreshard.edge e WHERE e.name = hint_function.edge FOR KEY SHARE;
        IF edge IS NOT NULL AND NOT FOUND THEN
            RAISE EXCEPTION 'edge % does not exist', quote_ident(left(edge, 100)) USING ERRCODE = 'undefined_object',
                HINT = 'Leave it out for all edges; foreshard.edges lists the edges.';
        END IF;
        LOCK TABLE foreshard.hint IN SHARE ROW EXCLUSIVE MODE;
        UPDATE foreshard.hint h SET confidence = hint_function.confidence
            WHERE h.function_id = hint_function.function_id COLLATE "C" AND h.edge IS NOT DISTINCT FROM hint_function.edge COLLATE "C"
                AND h.cron = hint_function.cron
            RETURNING h.id INTO declared;
        IF FOUND THEN
            RETURN declared;
        END IF;
        IF (SELECT count(*) FROM foreshard.hint) >= 1000
            OR (SELECT count(*) FROM foreshard.hint h WHERE h.function_id = hint_function.function_id COLLATE "C") >= 16 THEN
            RAISE EXCEPTION 'there are at most 1000 hints, 16 of them of one function' USING ERRCODE = 'program_limit_exceeded',
                HINT = 'Several times fit into one expression, as in ''0,30 6-9 * * *''; foreshard.hints lists the hints.';
        END IF;
        INSERT INTO foreshard.hint (function_id, edge, cron, confidence) VALUES (function_id, edge, cron, confidence) RETURNING id INTO declared;
        RETURN declared;
    END
    $$;
COMMENT ON FUNCTION foreshard.hint_function(text, text, text, float8) IS
    'declares when a function runs: a cron expression in local time of the edge, or of each edge; the number of the hint';

CREATE FUNCTION foreshard.unhint_function(function_id text, cron text DEFAULT NULL, edge text DEFAULT NULL, if_exists boolean DEFAULT false) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
    BEGIN
        IF function_id IS NULL OR if_exists IS NULL THEN
            RAISE EXCEPTION 'function_id and if_exists must not be NULL' USING ERRCODE = 'null_value_not_allowed';
        END IF;
        DELETE FROM foreshard.hint h
            WHERE h.function_id = unhint_function.function_id COLLATE "C"
                AND (unhint_function.cron IS NULL OR h.cron = unhint_function.cron)
                AND (unhint_function.edge IS NULL OR h.edge = unhint_function.edge COLLATE "C");
        IF NOT FOUND THEN
            IF NOT if_exists THEN
                RAISE EXCEPTION 'there is no such hint of function %', quote_literal(left(function_id, 256)) USING ERRCODE = 'undefined_object',
                    HINT = 'foreshard.hints lists the hints; pass if_exists => true to skip a missing one.';
            END IF;
            RAISE NOTICE 'there is no such hint of function %, skipping', quote_literal(left(function_id, 256));
        END IF;
    END
    $$;
COMMENT ON FUNCTION foreshard.unhint_function(text, text, text, boolean) IS
    'removes the hints of a function: all of them, or those with this expression, or of this edge';
