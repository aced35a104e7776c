-- The triggers on events as the newest revision has them, for a schema from which one was dropped by hand.

CREATE OR REPLACE FUNCTION queue_new_event() RETURNS trigger LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    INSERT INTO event_queue (event_seq, chain_id, kind)
    SELECT seq, chain_id, 'assert' FROM new_rows ORDER BY seq;
    RETURN NULL;
END $$;

CREATE OR REPLACE FUNCTION event_change_kinds(
    was_retracted timestamptz, is_retracted timestamptz, old_hash text, new_hash text
) RETURNS text[] LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT CASE
        WHEN is_retracted IS NOT NULL AND was_retracted IS NULL THEN ARRAY['retract']
        WHEN is_retracted IS NULL AND was_retracted IS NOT NULL THEN ARRAY['assert']
        WHEN is_retracted IS NULL AND new_hash <> old_hash THEN ARRAY['retract', 'assert']
    END
$$;

-- A plan is kept that was made for few rows. As a nested loop it would compare each with each when many change.
CREATE OR REPLACE FUNCTION queue_event_change() RETURNS trigger LANGUAGE plpgsql
    SET search_path FROM CURRENT SET enable_nestloop = off AS $$
BEGIN
    INSERT INTO event_queue (event_seq, chain_id, kind, returned)
    SELECT seq, n.chain_id, change.kind, change.kind = 'assert'
    FROM new_rows AS n JOIN old_rows AS o USING (seq)
    CROSS JOIN LATERAL unnest(event_change_kinds(o.retracted_at, n.retracted_at, o.block_hash, n.block_hash))
        WITH ORDINALITY AS change (kind, place)
    ORDER BY change.kind DESC, n.block_number, n.log_index, seq;
    RETURN NULL;
END $$;

CREATE OR REPLACE FUNCTION notify_event(
    id text, chain_id bigint, block_number bigint, event_type text, registry text
) RETURNS void LANGUAGE sql AS $$
    -- A payload ends at 7,999 bytes, and no text may refuse an event.
    SELECT pg_notify('new_event', json_build_object(
        'event_id', id, 'chain_id', chain_id, 'block_number', block_number,
        'event_type', left(event_type, 200), 'registry', registry)::text)
$$;

CREATE OR REPLACE FUNCTION notify_new_event() RETURNS trigger LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    PERFORM notify_event(id, chain_id, block_number, event_type, registry)
    FROM (SELECT seq, id, chain_id, block_number, event_type, registry, count(*) OVER () AS rows,
                 row_number() OVER (PARTITION BY chain_id ORDER BY seq DESC) AS from_last
          FROM new_rows) AS numbered
    WHERE rows <= 20 OR from_last = 1 ORDER BY seq;
    RETURN NULL;
END $$;

CREATE OR REPLACE FUNCTION notify_event_change() RETURNS trigger LANGUAGE plpgsql
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

CREATE OR REPLACE TRIGGER queue_new_event_trigger AFTER INSERT ON events
    REFERENCING NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION queue_new_event();

CREATE OR REPLACE TRIGGER notify_new_event_trigger AFTER INSERT ON events
    REFERENCING NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION notify_new_event();

CREATE OR REPLACE TRIGGER queue_event_change_trigger AFTER UPDATE ON events
    REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION queue_event_change();

CREATE OR REPLACE TRIGGER notify_event_change_trigger AFTER UPDATE ON events
    REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION notify_event_change();

ALTER TABLE events ENABLE ALWAYS TRIGGER queue_new_event_trigger;

ALTER TABLE events ENABLE ALWAYS TRIGGER queue_event_change_trigger;
