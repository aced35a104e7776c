CREATE TABLE triggers (
    id                      text PRIMARY KEY,
    organization_id         text NOT NULL,
    user_id                 text NOT NULL,
    name                    text NOT NULL,
    environment             text NOT NULL DEFAULT 'live' CHECK (environment IN ('live', 'test')),
    managed_by              text,
    description             text,
    chain_id                bigint,
    registry                text,
    enabled                 boolean NOT NULL DEFAULT true,
    is_stateful             boolean NOT NULL DEFAULT false,
    condition               jsonb NOT NULL DEFAULT 'null',
    fire_at                 jsonb NOT NULL DEFAULT '"seen"',
    on_reorg                text NOT NULL DEFAULT 'ignore' CHECK (on_reorg IN ('ignore', 'notify')),
    cooldown_seconds        int NOT NULL DEFAULT 0,
    dedupe_key              text,
    circuit_breaker_config  jsonb NOT NULL DEFAULT '{}',
    on_open                 text NOT NULL DEFAULT 'hold' CHECK (on_open IN ('hold', 'skip')),
    on_release              text NOT NULL DEFAULT 'each' CHECK (on_release IN ('each', 'digest')),
    version                 int NOT NULL DEFAULT 1,
    start_seq               bigint NOT NULL DEFAULT 0,
    start_blocks            jsonb NOT NULL DEFAULT '{}',
    invalid_reason          text,
    created_at              timestamptz NOT NULL DEFAULT now(),
    updated_at              timestamptz NOT NULL DEFAULT now()
);

CREATE INDEX triggers_organization ON triggers (organization_id, created_at);

CREATE FUNCTION forget_start_blocks() RETURNS trigger LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    -- Another chain comes under this number: none of its blocks is any trigger's past.
    UPDATE triggers SET start_blocks = start_blocks - NEW.chain_id::text WHERE start_blocks ? NEW.chain_id::text;
    RETURN NULL;
END $$;

CREATE TRIGGER checkpoints_forget_start_blocks AFTER UPDATE OF last_block_number ON checkpoints
    FOR EACH ROW WHEN (NEW.last_block_number < 0 AND OLD.last_block_number >= 0)
    EXECUTE FUNCTION forget_start_blocks();

CREATE TABLE trigger_actions (
    id           bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    trigger_id   text NOT NULL REFERENCES triggers ON DELETE CASCADE,
    action_type  text NOT NULL,
    priority     int NOT NULL DEFAULT 0,
    config       jsonb NOT NULL DEFAULT '{}',
    secrets      bytea,
    destination  text NOT NULL,
    enabled      boolean NOT NULL DEFAULT true,
    created_at   timestamptz NOT NULL DEFAULT now(),
    updated_at   timestamptz NOT NULL DEFAULT now()
);

CREATE INDEX trigger_actions_trigger ON trigger_actions (trigger_id, priority, id);

CREATE TABLE signing_secrets (
    id               bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    organization_id  text NOT NULL,
    action_id        bigint NOT NULL REFERENCES trigger_actions ON DELETE CASCADE,
    secret           bytea NOT NULL,
    created_at       timestamptz NOT NULL DEFAULT now(),
    expires_at       timestamptz
);

CREATE INDEX signing_secrets_action ON signing_secrets (action_id);

CREATE TABLE trigger_catalog (
    only_row  boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    version   bigint NOT NULL
);

INSERT INTO trigger_catalog (version) VALUES (0);

CREATE TABLE trigger_changes (
    version     bigint NOT NULL,
    trigger_id  text NOT NULL,
    changed_at  timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (version, trigger_id)
);

CREATE FUNCTION move_trigger_catalog() RETURNS trigger LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    -- The row lock is kept until the commit, so numbers become visible in their own order.
    UPDATE trigger_catalog SET version = version + 1;
    RETURN NULL;
END $$;

CREATE FUNCTION log_trigger_changes() RETURNS trigger LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    -- The argument names the column of the changed rows that holds the trigger's id.
    EXECUTE format(
        'INSERT INTO trigger_changes (version, trigger_id)
         SELECT DISTINCT trigger_catalog.version, changed.%I FROM changed CROSS JOIN trigger_catalog
         ON CONFLICT DO NOTHING', TG_ARGV[0]);
    PERFORM pg_notify('trigger_changed', version::text) FROM trigger_catalog;
    RETURN NULL;
END $$;

CREATE TRIGGER triggers_move_catalog BEFORE INSERT OR UPDATE OR DELETE ON triggers
    FOR EACH STATEMENT EXECUTE FUNCTION move_trigger_catalog();

CREATE TRIGGER triggers_log_insert AFTER INSERT ON triggers
    REFERENCING NEW TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION log_trigger_changes('id');

CREATE TRIGGER triggers_log_update AFTER UPDATE ON triggers
    REFERENCING NEW TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION log_trigger_changes('id');

CREATE TRIGGER triggers_log_moved AFTER UPDATE ON triggers
    REFERENCING OLD TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION log_trigger_changes('id');

CREATE TRIGGER triggers_log_delete AFTER DELETE ON triggers
    REFERENCING OLD TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION log_trigger_changes('id');

CREATE TRIGGER trigger_actions_move_catalog BEFORE INSERT OR UPDATE OR DELETE ON trigger_actions
    FOR EACH STATEMENT EXECUTE FUNCTION move_trigger_catalog();

CREATE TRIGGER trigger_actions_log_insert AFTER INSERT ON trigger_actions
    REFERENCING NEW TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION log_trigger_changes('trigger_id');

CREATE TRIGGER trigger_actions_log_update AFTER UPDATE ON trigger_actions
    REFERENCING NEW TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION log_trigger_changes('trigger_id');

CREATE TRIGGER trigger_actions_log_moved AFTER UPDATE ON trigger_actions
    REFERENCING OLD TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION log_trigger_changes('trigger_id');

CREATE TRIGGER trigger_actions_log_delete AFTER DELETE ON trigger_actions
    REFERENCING OLD TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION log_trigger_changes('trigger_id');
