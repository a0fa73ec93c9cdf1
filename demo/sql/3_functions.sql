-- What the DBA adds, part two: which function reads which shards, and nothing else.

-- For every destination: the board that passengers look at, and the briefing of the crew.
SELECT foreshard.map_function('board:' || dest, '{departures,airlines}'),
       foreshard.map_function('crew:' || dest, '{departures,destination,weather_today}')
FROM (SELECT DISTINCT dest FROM flights) AS served;

-- For every airline: its check-in counters and its operations desk.
SELECT foreshard.map_function('checkin:' || carrier, '{counter,airlines}'),
       foreshard.map_function('ops:' || carrier, '{counter,disruptions}')
FROM airlines;

-- For every airport: the weather at the gate.
SELECT foreshard.map_function('gate-weather:' || origin, ARRAY['weather_' || lower(origin)])
FROM unnest('{EWR,JFK,LGA}'::text[]) AS origin;

SELECT foreshard.map_function('lobby', '{disruptions,weather_today}');
SELECT foreshard.map_function('aircraft-card', '{planes}');
