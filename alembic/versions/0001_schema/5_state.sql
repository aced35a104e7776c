CREATE TABLE trigger_state (
    trigger_id       text NOT NULL,
    leaf_id          int NOT NULL,
    scope_key        text NOT NULL,
    state            jsonb NOT NULL,
    last_event_seq   bigint,
    last_event_time  bigint,
    updated_at       timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (trigger_id, leaf_id, scope_key)
);

CREATE TABLE window_samples (
    trigger_id   text NOT NULL,
    leaf_id      int NOT NULL,
    scope_key    text NOT NULL,
    event_time   bigint NOT NULL,
    event_seq    bigint NOT NULL,
    value        numeric,
    consumed_by  bigint,
    PRIMARY KEY (trigger_id, leaf_id, scope_key, event_time, event_seq)
);

CREATE TABLE state_undo (
    id            bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    chain_id      bigint NOT NULL,
    block_number  bigint NOT NULL,
    event_seq     bigint NOT NULL,
    trigger_id    text NOT NULL,
    leaf_id       int NOT NULL,
    scope_key     text NOT NULL,
    before        jsonb,
    input         jsonb
);

CREATE INDEX state_undo_event ON state_undo (event_seq);

CREATE INDEX state_undo_key ON state_undo (trigger_id, leaf_id, scope_key, id);

CREATE INDEX state_undo_block ON state_undo (chain_id, block_number);

CREATE TABLE timers (
    id               bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    chain_id         bigint NOT NULL,
    due_time         bigint NOT NULL,
    event_seq        bigint NOT NULL,
    trigger_id       text NOT NULL,
    trigger_version  int NOT NULL,
    leaf_id          int NOT NULL,
    scope_key        text NOT NULL,
    cancelled_by     bigint,
    fired_at         timestamptz
);

CREATE INDEX timers_due ON timers (chain_id, due_time) WHERE cancelled_by IS NULL AND fired_at IS NULL;

CREATE TABLE circuit_breaker_state (
    trigger_id          text PRIMARY KEY,
    state               text NOT NULL CHECK (state IN ('closed', 'open', 'half_open')),
    failure_count       int NOT NULL DEFAULT 0,
    success_count       int NOT NULL DEFAULT 0,
    last_failure_at     timestamptz,
    opened_at           timestamptz,
    next_probe_at       timestamptz,
    half_open_admitted  int NOT NULL DEFAULT 0,
    half_open_at        timestamptz,
    last_error          text CHECK (char_length(last_error) <= 500),
    updated_at          timestamptz NOT NULL DEFAULT now()
);

CREATE INDEX circuit_breaker_state_probe ON circuit_breaker_state (next_probe_at) WHERE state = 'open';

CREATE INDEX circuit_breaker_state_half_open ON circuit_breaker_state (half_open_at) WHERE state = 'half_open';

CREATE FUNCTION complete_breaker_state() RETURNS trigger LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
DECLARE
    seconds numeric := 60;
BEGIN
    IF NEW.state = 'closed' THEN
        NEW.opened_at := NULL;
        NEW.next_probe_at := NULL;
        NEW.half_open_admitted := 0;
        NEW.half_open_at := NULL;
    ELSIF NEW.state = 'open' AND (NEW.opened_at IS NULL OR NEW.next_probe_at IS NULL) THEN
        SELECT (circuit_breaker_config ->> 'recovery_timeout_seconds')::numeric INTO seconds
        FROM triggers
        WHERE id = NEW.trigger_id AND jsonb_typeof(circuit_breaker_config -> 'recovery_timeout_seconds') = 'number';
        NEW.opened_at := coalesce(NEW.opened_at, now());
        NEW.next_probe_at := coalesce(
            NEW.next_probe_at, NEW.opened_at + make_interval(secs => least(coalesce(seconds, 60), 604800)));
    END IF;
    RETURN NEW;
END $$;

CREATE FUNCTION notify_breaker_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify(
        'breaker_changed', json_build_object('trigger_id', left(NEW.trigger_id, 1000), 'state', NEW.state)::text);
    RETURN NULL;
END $$;

CREATE TRIGGER complete_breaker_state_trigger BEFORE INSERT OR UPDATE ON circuit_breaker_state
    FOR EACH ROW EXECUTE FUNCTION complete_breaker_state();

CREATE TRIGGER notify_new_breaker_trigger AFTER INSERT ON circuit_breaker_state
    FOR EACH ROW WHEN (NEW.state <> 'closed') EXECUTE FUNCTION notify_breaker_change();

CREATE TRIGGER notify_breaker_change_trigger AFTER UPDATE ON circuit_breaker_state
    FOR EACH ROW WHEN (OLD.state <> NEW.state) EXECUTE FUNCTION notify_breaker_change();
