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
        LOCK TABLE foreshard.shard IN SHARE UPDATE EXCLUSIVE MODE;
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
        LOCK TABLE foreshard.shard IN SHARE UPDATE EXCLUSIVE MODE;
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
