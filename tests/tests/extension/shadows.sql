-- Look-alikes of everything in pg_catalog and foreshard that has a name: functions of every kind, operators, types, relations, in the
-- two schemas that stand in front of the search path of a session. Its temporary schema has the relations and types as well.
CREATE TABLE evil.missing (name text, why text);

-- What is done when a look-alike is used.
CREATE FUNCTION evil.body(name text, gives_one boolean) RETURNS text LANGUAGE sql SET search_path = pg_catalog AS
    $$ SELECT format('BEGIN PERFORM evil.spring(%L); RETURN%s; END', name, CASE WHEN gives_one THEN ' NULL' ELSE '' END) $$;

-- What could not be made is noted.
CREATE FUNCTION evil.attempt(what text, statement text) RETURNS void LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET check_function_bodies = off AS $f$
    BEGIN
        EXECUTE statement;
    EXCEPTION WHEN duplicate_function THEN
        -- Some differ only in what stands here for any type.
    WHEN OTHERS THEN
        INSERT INTO evil.missing VALUES (what, SQLERRM);
    END $f$;

CREATE FUNCTION evil.shadow_functions(place text) RETURNS void LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $f$
    DECLARE
        of record;
        statement text;
        step text;
    BEGIN
        -- Only functions in C take any number of arguments of any type (2276): here are some of each number up to four, and of
        -- text (25) alone.
        FOR of IN SELECT p.oid, p.proname AS name, p.prokind AS kind, pg_get_function_result(p.oid) AS result, v.arguments,
                evil.body(p.proname, NOT p.proretset AND p.prorettype <> 'void'::regtype AND NOT coalesce(p.proargmodes && '{o,b,t}', false)) AS body
            FROM pg_proc p CROSS JOIN LATERAL (
                SELECT (SELECT string_agg(CASE WHEN t.type <> '"any"'::regtype THEN t.type::regtype::text WHEN t.n % 2 = 1 THEN 'anyelement'
                        ELSE 'anycompatible' END, ', ' ORDER BY t.n)
                    FROM unnest(p.proargtypes[:p.pronargs - 1 - (p.provariadic = '"any"'::regtype)::int]::oid[] || added.types) WITH ORDINALITY t (type, n)) AS arguments
                FROM (VALUES ('{}'::oid[]), ('{2276}'), ('{2276,2276}'), ('{2276,2276,25}'), ('{2276,2276,25,2276}'),
                    ('{25}'), ('{25,25}'), ('{25,25,25}'), ('{25,25,25,25}')) added (types)
                WHERE p.provariadic = '"any"'::regtype OR (added.types = '{}' AND (p.proargmodes IS NULL))
                UNION ALL SELECT replace(pg_get_function_arguments(p.oid), 'pg_ddl_command', 'text') WHERE p.proargmodes IS NOT NULL AND p.provariadic <> '"any"'::regtype
            ) v
            WHERE p.pronamespace IN ('pg_catalog'::regnamespace, 'foreshard'::regnamespace)
                -- No SQL can give these, and none but functions in C can take or return them.
                AND NOT EXISTS (SELECT FROM unnest(p.proargtypes::oid[] || nullif(p.prorettype, 'void'::regtype)) t
                    WHERE t IN (SELECT y.oid FROM pg_type y WHERE y.typtype = 'p' AND y.typname !~ '^(any|record|trigger$|event_trigger$)'))
        LOOP
            IF of.kind = 'a' THEN
                step := format('%I.%I', place, 'step ' || of.oid);
                statement := format('CREATE FUNCTION %s(%s) RETURNS int LANGUAGE plpgsql AS %L; CREATE AGGREGATE %I.%I(%s) (sfunc = %1$s, stype = int)',
                    step, concat_ws(', ', 'int', of.arguments), of.body, place, of.name, coalesce(of.arguments, '*'));
            ELSE
                statement := format('CREATE %s %I.%I(%s)%s LANGUAGE plpgsql AS %L', CASE of.kind WHEN 'p' THEN 'PROCEDURE' ELSE 'FUNCTION' END,
                    place, of.name, of.arguments, CASE WHEN of.kind <> 'p' THEN ' RETURNS ' || of.result END, of.body);
            END IF;
            PERFORM evil.attempt(format('%s(%s) %s', of.name, of.arguments, of.result), statement);
        END LOOP;
    END $f$;

CREATE FUNCTION evil.shadow_operators(place text) RETURNS void LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $f$
    DECLARE
        of record;
        function text;
    BEGIN
        FOR of IN SELECT o.oid, o.oprname AS name, nullif(o.oprleft, 0)::regtype AS l, o.oprright::regtype AS r, o.oprresult::regtype AS result
            FROM pg_operator o WHERE o.oprnamespace IN ('pg_catalog'::regnamespace, 'foreshard'::regnamespace) AND o.oprcode <> 0
        LOOP
            function := format('%I.%I', place, 'operator ' || of.oid);
            PERFORM evil.attempt(concat_ws(' ', of.l, of.name, of.r), format('CREATE FUNCTION %s(%s) RETURNS %s LANGUAGE plpgsql AS %L; CREATE OPERATOR %I.%s (%s, function = %1$s)',
                function, concat_ws(', ', of.l, of.r), of.result, evil.body(concat_ws(' ', of.l, of.name, of.r), true), place, of.name,
                concat_ws(', ', 'leftarg = ' || of.l, 'rightarg = ' || of.r)));
        END LOOP;
    END $f$;

-- Views that spring when they are read, with the columns of what they pose as; types that take nothing.
CREATE FUNCTION evil.springs(what text) RETURNS boolean LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$ BEGIN PERFORM evil.spring(what); RETURN false; END $$;
CREATE FUNCTION evil.shadow_relations_and_types(place text) RETURNS void LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $f$
    DECLARE
        of record;
    BEGIN
        FOR of IN SELECT c.relname AS name, (SELECT string_agg(format('NULL::%s AS %I', CASE WHEN a.atttypid IN ('anyarray'::regtype, 'pg_statistic[]'::regtype) THEN 'text[]'
                    ELSE format_type(a.atttypid, a.atttypmod) END, a.attname), ', ' ORDER BY a.attnum)
                FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped) AS columns
            FROM pg_class c WHERE c.relnamespace IN ('pg_catalog'::regnamespace, 'foreshard'::regnamespace) AND c.relkind IN ('r', 'v', 'p')
        LOOP
            PERFORM evil.attempt(of.name, format('CREATE VIEW %I.%I AS SELECT %s WHERE evil.springs(%L)', place, of.name, of.columns, of.name));
        END LOOP;
        FOR of IN SELECT t.typname AS name FROM pg_type t WHERE t.typnamespace = 'pg_catalog'::regnamespace AND t.typrelid = 0 AND left(t.typname, 1) <> '_'
        LOOP
            PERFORM evil.attempt(of.name, format('CREATE DOMAIN %I.%I AS int CHECK (evil.springs(%L))', place, of.name, of.name));
        END LOOP;
    END $f$;

SELECT evil.shadow_functions(place), evil.shadow_operators(place), evil.shadow_relations_and_types(place) FROM unnest('{evil,public}'::text[]) place;
SELECT evil.shadow_relations_and_types('pg_temp');
