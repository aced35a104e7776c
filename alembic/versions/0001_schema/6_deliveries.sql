-- Partitions by day are made at run time, with the bounds of agentauri.migrations.
CREATE TABLE deliveries (
    id               uuid PRIMARY KEY,
    organization_id  text NOT NULL,
    trigger_id       text NOT NULL,
    environment      text NOT NULL CHECK (environment IN ('live', 'test')),
    trigger_version  int NOT NULL,
    action_id        bigint NOT NULL,
    action_type      text NOT NULL,
    destination      text NOT NULL,
    event_seq        bigint NOT NULL,
    chain_id         bigint NOT NULL,
    kind             text NOT NULL CHECK (kind IN ('match', 'retraction', 'absence', 'digest', 'replay', 'test')),
    status           text NOT NULL DEFAULT 'pending' CHECK (status IN ('pending', 'delivered', 'dead', 'skipped')),
    reason           text,
    hold             text CHECK (hold IN ('depth', 'breaker', 'retraction', 'paused')),
    release_tag      text,
    release_block    bigint,
    due_at           timestamptz NOT NULL,
    leased_until     timestamptz,
    lease_owner      text,
    attempts         int NOT NULL DEFAULT 0,
    schedule_from    int NOT NULL DEFAULT 0,  -- attempts made before the retry schedule last started
    priority         int NOT NULL DEFAULT 0,
    context          jsonb,
    receipt          jsonb,
    parent_id        uuid,
    created_at       timestamptz NOT NULL,
    finished_at      timestamptz
) PARTITION BY RANGE (id);

CREATE INDEX deliveries_event ON deliveries (event_seq);

CREATE INDEX deliveries_trigger ON deliveries (trigger_id, id);

CREATE INDEX deliveries_organization ON deliveries (organization_id, id);

CREATE INDEX deliveries_due ON deliveries (due_at) WHERE status = 'pending' AND hold IS NULL;

CREATE INDEX deliveries_depth ON deliveries (chain_id, release_tag, release_block) WHERE hold = 'depth';

CREATE INDEX deliveries_breaker ON deliveries (trigger_id, id) WHERE hold = 'breaker';

CREATE INDEX deliveries_held ON deliveries (hold, due_at) WHERE hold IS NOT NULL;

CREATE INDEX deliveries_dead ON deliveries (organization_id, id) WHERE status = 'dead';

CREATE TABLE deliveries_default PARTITION OF deliveries DEFAULT WITH (fillfactor = 85);

CREATE TABLE attempts (
    delivery_id       uuid NOT NULL,
    number            int NOT NULL,
    started_at        timestamptz NOT NULL,
    duration_ms       int,
    outcome           text CHECK (outcome IN ('delivered', 'retryable', 'permanent', 'abandoned')),
    status_code       int,
    error_kind        text,
    error             text CHECK (char_length(error) <= 500),
    response_excerpt  text CHECK (char_length(response_excerpt) <= 1024),
    peer_address      text,
    retry_at          timestamptz,
    instance          text,
    PRIMARY KEY (delivery_id, number)
) PARTITION BY RANGE (delivery_id);

CREATE TABLE attempts_default PARTITION OF attempts DEFAULT;
