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
