-- What the DBA adds, part one: the logical shards. Run once the tables are filled.

-- Shards are keyed by and filtered on columns that are not in the primary key. So that a flight which leaves a shard (other
-- destination, other status) is seen leaving it, the log has to carry its old values.
DO $$
DECLARE
    part regclass;
BEGIN
    FOR part IN SELECT relid FROM unnest('{flights,weather}'::regclass[]) AS root, pg_partition_tree(root) WHERE isleaf LOOP
        EXECUTE format('ALTER TABLE %s REPLICA IDENTITY FULL', part);
    END LOOP;
END
$$;

-- What an edge reads when it fetches one instance.
CREATE INDEX ON flights (origin, dest);
CREATE INDEX ON flights (origin, carrier, dest);

-- Whole tables.
SELECT foreshard.create_shard('airlines', 'airlines');
SELECT foreshard.create_shard('planes', 'planes',
    columns => '{tailnum,manufacturer,model,engines,seats,in_service,rev}');

-- Single partitions.
SELECT foreshard.create_shard('weather_ewr', 'weather_ewr',
    columns => '{origin,month,day,hour,temp,wind_dir,wind_speed,wind_gust,visib}');
SELECT foreshard.create_shard('weather_jfk', 'weather_jfk',
    columns => '{origin,month,day,hour,temp,wind_dir,wind_speed,wind_gust,visib}');
SELECT foreshard.create_shard('weather_lga', 'weather_lga',
    columns => '{origin,month,day,hour,temp,wind_dir,wind_speed,wind_gust,visib}');

-- One instance for each key.
SELECT foreshard.create_shard('destination', 'airports', key => '{faa}');

-- What holds for one day of operation is redefined each night. Called twice for the same day, it changes nothing.
CREATE FUNCTION open_day(today date) RETURNS void LANGUAGE sql AS $$
    -- the departure board of one route
    SELECT foreshard.create_shard('departures', 'flights', or_replace => true,
        predicate => format('flight_date = %L::date', today), key => '{origin,dest}',
        columns => '{id,flight_date,carrier,flight,origin,dest,tailnum,gate,status,sched_dep,est_dep,rev}');
    -- what one airline has on one route
    SELECT foreshard.create_shard('counter', 'flights', or_replace => true,
        predicate => format('flight_date = %L::date', today), key => '{origin,carrier,dest}');
    -- what goes wrong at one airport
    SELECT foreshard.create_shard('disruptions', 'flights', or_replace => true,
        predicate => format('flight_date = %L::date AND status IN (''late'', ''cancelled'')', today), key => '{origin}',
        columns => '{id,carrier,flight,origin,dest,gate,status,est_dep,rev}');
    SELECT foreshard.create_shard('weather_today', 'weather', or_replace => true,
        predicate => format('month = %s AND day = %s', extract(month FROM today), extract(day FROM today)),
        key => '{origin}');
$$;
SELECT open_day('2013-10-22');
