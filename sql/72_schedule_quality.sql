-- What schedules are worth, as foreshard plan measures it: for a DBA to read, and for nobody to lean on.

CREATE TABLE foreshard.schedule_quality (
    edge                text COLLATE "C" NOT NULL REFERENCES foreshard.edge ON DELETE CASCADE,
    hour                timestamptz NOT NULL,
    decisions           bigint NOT NULL,
    came_true           bigint NOT NULL,
    brier               float8 NOT NULL,
    ece                 float8 NOT NULL,
    scheduled           bigint NOT NULL,
    scheduled_runs      bigint NOT NULL,
    scheduled_misses    bigint NOT NULL,
    scheduled_wait_us   bigint NOT NULL,
    control             bigint NOT NULL,
    control_runs        bigint NOT NULL,
    control_misses      bigint NOT NULL,
    control_wait_us     bigint NOT NULL,
    uplift              float8 GENERATED ALWAYS AS (1 - (scheduled_misses::float8 / nullif(scheduled_runs, 0))
                            / nullif(control_misses::float8 / nullif(control_runs, 0), 0)) STORED,
    wasted_bytes        bigint NOT NULL,
    PRIMARY KEY (edge, hour)
);
COMMENT ON TABLE foreshard.schedule_quality IS
    'what the schedules of an hour were worth: decisions (one function at one edge for one window) that are over, how honest their confidences were, and what the control group lacked';
COMMENT ON COLUMN foreshard.schedule_quality.uplift IS
    'share of the control group''s misses per execution that scheduling removed; NULL while one group has no execution, or the control group no miss';
COMMENT ON COLUMN foreshard.schedule_quality.wasted_bytes IS
    'bytes fetched ahead for functions that did not run, as those functions usually read them';

CREATE TABLE foreshard.control_group (
    edge        text COLLATE "C" NOT NULL REFERENCES foreshard.edge ON DELETE CASCADE,
    function_id text COLLATE "C" NOT NULL,
    starts_at   timestamptz NOT NULL,
    ends_at     timestamptz NOT NULL,
    confidence  float8 NOT NULL,
    PRIMARY KEY (edge, function_id, starts_at)
);
CREATE INDEX control_group_ends ON foreshard.control_group (ends_at);
COMMENT ON TABLE foreshard.control_group IS 'schedule entries that were withheld at random, to measure what scheduling is worth';

CREATE FUNCTION foreshard.report_quality(measures jsonb, withheld jsonb) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET timezone = 'UTC'
    AS $$
    DECLARE
        due constant timestamptz := now() - foreshard.log_retention();
    BEGIN
        IF jsonb_typeof(measures) IS DISTINCT FROM 'array' OR jsonb_typeof(withheld) IS DISTINCT FROM 'array' THEN
            RAISE EXCEPTION 'measures and withheld must be JSON arrays' USING ERRCODE = 'invalid_parameter_value';
        END IF;
        IF jsonb_array_length(measures) > 100000 OR jsonb_array_length(withheld) > 100000 THEN
            RAISE EXCEPTION 'a report has at most 100000 entries of each kind' USING ERRCODE = 'program_limit_exceeded';
        END IF;
        -- Of an hour that is reported in parts: sums add up, means by their number of decisions.
        INSERT INTO foreshard.schedule_quality AS q (edge, hour, decisions, came_true, brier, ece, scheduled, scheduled_runs,
                scheduled_misses, scheduled_wait_us, control, control_runs, control_misses, control_wait_us, wasted_bytes)
            SELECT m.edge, to_timestamp(m.hour), m.decisions, m.came_true, m.brier, m.ece, m.scheduled, m.scheduled_runs,
                m.scheduled_misses, m.scheduled_wait_us, m.control, m.control_runs, m.control_misses, m.control_wait_us, m.wasted_bytes
            FROM jsonb_to_recordset(measures) AS m(edge text, hour bigint, decisions bigint, came_true bigint, brier float8,
                    ece float8, scheduled bigint, scheduled_runs bigint, scheduled_misses bigint, scheduled_wait_us bigint,
                    control bigint, control_runs bigint, control_misses bigint, control_wait_us bigint, wasted_bytes bigint)
                JOIN foreshard.edge e ON e.name = m.edge COLLATE "C"
            WHERE m.decisions > 0
            ON CONFLICT ON CONSTRAINT schedule_quality_pkey DO UPDATE SET
                brier = (q.brier * q.decisions + excluded.brier * excluded.decisions) / (q.decisions + excluded.decisions),
                ece = (q.ece * q.decisions + excluded.ece * excluded.decisions) / (q.decisions + excluded.decisions),
                decisions = q.decisions + excluded.decisions, came_true = q.came_true + excluded.came_true,
                scheduled = q.scheduled + excluded.scheduled, scheduled_runs = q.scheduled_runs + excluded.scheduled_runs,
                scheduled_misses = q.scheduled_misses + excluded.scheduled_misses,
                scheduled_wait_us = q.scheduled_wait_us + excluded.scheduled_wait_us,
                control = q.control + excluded.control, control_runs = q.control_runs + excluded.control_runs,
                control_misses = q.control_misses + excluded.control_misses,
                control_wait_us = q.control_wait_us + excluded.control_wait_us,
                wasted_bytes = q.wasted_bytes + excluded.wasted_bytes;
        INSERT INTO foreshard.control_group (edge, function_id, starts_at, ends_at, confidence)
            SELECT w.edge, w.function_id, to_timestamp(w.starts_at), to_timestamp(w.ends_at), w.confidence
            FROM jsonb_to_recordset(withheld) AS w(edge text, function_id text, starts_at bigint, ends_at bigint, confidence float8)
                JOIN foreshard.edge e ON e.name = w.edge COLLATE "C"
            ON CONFLICT DO NOTHING;
        -- Kept as long as executions, by the times that they are about: a replayed log has times of its own.
        DELETE FROM foreshard.schedule_quality q WHERE q.hour < due AND q.hour < (SELECT max(n.hour) FROM foreshard.schedule_quality n) - foreshard.log_retention();
        DELETE FROM foreshard.control_group c WHERE c.ends_at < due AND c.ends_at < (SELECT max(n.ends_at) FROM foreshard.control_group n) - foreshard.log_retention();
    END
    $$;
COMMENT ON FUNCTION foreshard.report_quality(jsonb, jsonb) IS 'for foreshard plan: adds to schedule_quality and control_group';
