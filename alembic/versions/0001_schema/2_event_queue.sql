CREATE TABLE event_queue (
    position    bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    event_seq   bigint NOT NULL,
    chain_id    bigint NOT NULL,
    kind        text NOT NULL CHECK (kind IN ('assert', 'retract')),
    trigger_id  text,
    resume      jsonb,
    attempts    int NOT NULL DEFAULT 0,
    due_at      timestamptz,
    parked_at   timestamptz,
    last_error  text,
    returned    boolean NOT NULL DEFAULT false  -- the chain had taken the event back
) WITH (autovacuum_vacuum_threshold = 5000, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_cost_delay = 0);

CREATE INDEX event_queue_lane ON event_queue (chain_id, position) WHERE due_at IS NULL;

CREATE INDEX event_queue_due ON event_queue (due_at) WHERE due_at IS NOT NULL AND parked_at IS NULL;

CREATE INDEX event_queue_parked ON event_queue (parked_at) WHERE parked_at IS NOT NULL;

CREATE INDEX event_queue_event ON event_queue (event_seq);

CREATE TABLE processed_events (
    event_seq               bigint PRIMARY KEY,
    event_id                text NOT NULL,
    processed_at            timestamptz NOT NULL DEFAULT clock_timestamp(),
    processing_duration_ms  int NOT NULL,
    triggers_matched        int NOT NULL DEFAULT 0,
    actions_enqueued        int NOT NULL DEFAULT 0,
    evaluations             int NOT NULL DEFAULT 1,
    processor_instance      text NOT NULL
);

CREATE INDEX processed_events_time ON processed_events USING brin (processed_at);

CREATE FUNCTION queue_new_event() RETURNS trigger LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    INSERT INTO event_queue (event_seq, chain_id, kind)
    SELECT seq, chain_id, 'assert' FROM new_rows ORDER BY seq;
    RETURN NULL;
END $$;

CREATE FUNCTION event_change_kinds(
    was_retracted timestamptz, is_retracted timestamptz, old_hash text, new_hash text
) RETURNS text[] LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT CASE
        WHEN is_retracted IS NOT NULL AND was_retracted IS NULL THEN ARRAY['retract']
        WHEN is_retracted IS NULL AND was_retracted IS NOT NULL THEN ARRAY['assert']
        WHEN is_retracted IS NULL AND new_hash <> old_hash THEN ARRAY['retract', 'assert']
    END
$$;

-- A plan is kept that was made for few rows. As a nested loop it would compare each with each when many change.
CREATE FUNCTION queue_event_change() RETURNS trigger LANGUAGE plpgsql
    SET search_path FROM CURRENT SET enable_nestloop = off AS $$
BEGIN
    INSERT INTO event_queue (event_seq, chain_id, kind, returned)
    SELECT seq, n.chain_id, change.kind, change.kind = 'assert'
    FROM new_rows AS n JOIN old_rows AS o USING (seq)
    CROSS JOIN LATERAL unnest(event_change_kinds(o.retracted_at, n.retracted_at, o.block_hash, n.block_hash))
        WITH ORDINALITY AS change (kind, place)
    ORDER BY seq, place;
    RETURN NULL;
END $$;

CREATE FUNCTION notify_event(
    id text, chain_id bigint, block_number bigint, event_type text, registry text
) RETURNS void LANGUAGE sql AS $$
    -- A payload ends at 7,999 bytes, and no text may refuse an event.
    SELECT pg_notify('new_event', json_build_object(
        'event_id', id, 'chain_id', chain_id, 'block_number', block_number,
        'event_type', left(event_type, 200), 'registry', registry)::text)
$$;

CREATE FUNCTION notify_new_event() RETURNS trigger LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    PERFORM notify_event(id, chain_id, block_number, event_type, registry)
    FROM (SELECT seq, id, chain_id, block_number, event_type, registry, count(*) OVER () AS rows,
                 row_number() OVER (PARTITION BY chain_id ORDER BY seq DESC) AS from_last
          FROM new_rows) AS numbered
    WHERE rows <= 20 OR from_last = 1 ORDER BY seq;
    RETURN NULL;
END $$;

CREATE FUNCTION notify_event_change() RETURNS trigger LANGUAGE plpgsql
    SET search_path FROM CURRENT SET enable_nestloop = off AS $$
BEGIN
    PERFORM notify_event(id, chain_id, block_number, event_type, registry)
    FROM (SELECT seq, n.id, n.chain_id, n.block_number, n.event_type, n.registry, count(*) OVER () AS rows,
                 row_number() OVER (PARTITION BY n.chain_id ORDER BY seq DESC) AS from_last
          FROM new_rows AS n JOIN old_rows AS o USING (seq)
          WHERE event_change_kinds(o.retracted_at, n.retracted_at, o.block_hash, n.block_hash) IS NOT NULL
         ) AS numbered
    WHERE rows <= 20 OR from_last = 1 ORDER BY seq;
    RETURN NULL;
END $$;

CREATE TRIGGER queue_new_event_trigger AFTER INSERT ON events
    REFERENCING NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION queue_new_event();

CREATE TRIGGER notify_new_event_trigger AFTER INSERT ON events
    REFERENCING NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION notify_new_event();

CREATE TRIGGER queue_event_change_trigger AFTER UPDATE ON events
    REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION queue_event_change();

CREATE TRIGGER notify_event_change_trigger AFTER UPDATE ON events
    REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION notify_event_change();

ALTER TABLE events ENABLE ALWAYS TRIGGER queue_new_event_trigger;

ALTER TABLE events ENABLE ALWAYS TRIGGER queue_event_change_trigger;
