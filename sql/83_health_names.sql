-- Definitions that did not follow an alteration, of an event trigger that was off; a part of health(), see 85_health.sql.

CREATE FUNCTION foreshard.health_names() RETURNS TABLE ("check" text, status text, detail text, fix text)
    LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp
    AS $$
    DECLARE
        shard record;
    BEGIN
        status := 'warn';
        fix := 'SELECT foreshard.rederive()';
        FOR shard IN SELECT s.*, q.query, q.query_tree FROM foreshard.shard s LEFT JOIN foreshard.shard_query q ON q.shard = s.name
            WHERE s.defect IS NULL AND (s.source IS NULL OR EXISTS (SELECT FROM pg_class c WHERE c.oid = s.source)) ORDER BY s.name
        LOOP
            "check" := 'names in shard ' || quote_ident(shard.name);
            detail := NULL;
            BEGIN
                IF foreshard.names_of(shard.source, shard.key_attnums, shard.key) <> shard.key THEN
                    detail := format('its key %s is now called %s', shard.key, foreshard.names_of(shard.source, shard.key_attnums, shard.key));
                ELSIF foreshard.names_of(shard.source, shard.column_attnums, shard.columns) <> shard.columns THEN
                    detail := format('its columns %s are now called %s', shard.columns,
                        foreshard.names_of(shard.source, shard.column_attnums, shard.columns));
                ELSIF foreshard.predicate_text(shard.source, shard.predicate_tree) <> shard.predicate
                    OR foreshard.query_text(shard.query_tree) <> shard.query THEN
                    detail := 'it is kept with names, or in a form, of before';
                END IF;
            EXCEPTION WHEN OTHERS THEN
                -- health_derived() says why it can't be told.
                detail := NULL;
            END;
            IF detail IS NOT NULL THEN
                RETURN NEXT;
            END IF;
        END LOOP;
    END
    $$;
COMMENT ON FUNCTION foreshard.health_names() IS 'the part of health() about definitions that did not follow an alteration';
