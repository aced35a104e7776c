ALTER TABLE timers ADD COLUMN context jsonb, ADD COLUMN told boolean NOT NULL DEFAULT false

CREATE UNIQUE INDEX timers_key ON timers (trigger_id, leaf_id, scope_key, due_time, event_seq)

CREATE INDEX timers_void ON timers (chain_id) WHERE told AND cancelled_by IS NOT NULL
