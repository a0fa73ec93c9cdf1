-- The airport operator's tables, as they would be without foreshard. `rev` is the number of the last revision by the
-- dispatch system: every transaction of it has a higher one.

CREATE TABLE airlines (
    carrier text PRIMARY KEY,
    name    text NOT NULL,
    rev     bigint NOT NULL DEFAULT 0
);

CREATE TABLE airports (
    faa   text PRIMARY KEY,
    name  text NOT NULL,
    lat   float8 NOT NULL,
    lon   float8 NOT NULL,
    alt   int NOT NULL,
    tzone text,
    rev   bigint NOT NULL DEFAULT 0
);

CREATE TABLE planes (
    tailnum      text PRIMARY KEY,
    year         int,
    type         text,
    manufacturer text,
    model        text,
    engines      int,
    seats        int,
    engine       text,
    in_service   boolean NOT NULL DEFAULT true,
    rev          bigint NOT NULL DEFAULT 0
);

CREATE TABLE flights (
    id             bigint NOT NULL,
    flight_date    date NOT NULL,
    carrier        text NOT NULL,
    flight         int NOT NULL,
    origin         text NOT NULL,
    dest           text NOT NULL,
    tailnum        text,
    gate           text,
    status         text NOT NULL,
    sched_dep      timestamptz NOT NULL,
    est_dep        timestamptz,
    dep_delay      int,
    sched_arr_time int,
    arr_delay      int,
    air_time       int,
    distance       int,
    rev            bigint NOT NULL DEFAULT 0,
    PRIMARY KEY (flight_date, id)
) PARTITION BY RANGE (flight_date);

CREATE TABLE weather (
    origin      text NOT NULL,
    observed_at timestamptz NOT NULL,
    month       int NOT NULL,
    day         int NOT NULL,
    hour        int NOT NULL,
    temp        float8,
    dewp        float8,
    humid       float8,
    wind_dir    int,
    wind_speed  float8,
    wind_gust   float8,
    precip      float8,
    pressure    float8,
    visib       float8,
    rev         bigint NOT NULL DEFAULT 0,
    PRIMARY KEY (origin, observed_at)
) PARTITION BY LIST (origin);

CREATE TABLE weather_ewr PARTITION OF weather FOR VALUES IN ('EWR');
CREATE TABLE weather_jfk PARTITION OF weather FOR VALUES IN ('JFK');
CREATE TABLE weather_lga PARTITION OF weather FOR VALUES IN ('LGA');

DO $$
DECLARE
    first_day date;
BEGIN
    FOR m IN 1..12 LOOP
        first_day := make_date(2013, m, 1);
        EXECUTE format('CREATE TABLE %I PARTITION OF flights FOR VALUES FROM (%L) TO (%L)',
                       'flights_' || to_char(first_day, 'YYYY_MM'), first_day, (first_day + interval '1 month')::date);
    END LOOP;
END
$$;
