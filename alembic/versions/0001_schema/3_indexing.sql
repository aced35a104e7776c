CREATE TABLE checkpoints (
    chain_id           bigint PRIMARY KEY,
    last_block_number  bigint NOT NULL,
    last_block_hash    text NOT NULL,
    last_block_time    bigint NOT NULL,
    head_number        bigint,
    safe_number        bigint,
    finalized_number   bigint,
    finalized_hash     text,
    first_block        bigint NOT NULL,
    status             text NOT NULL CHECK (status IN ('starting', 'backfill', 'live', 'degraded', 'halted')),
    status_reason      text,
    reset_to           bigint,
    progressed_at      timestamptz NOT NULL DEFAULT now(),
    updated_at         timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE block_anchors (
    chain_id      bigint NOT NULL,
    block_number  bigint NOT NULL,
    block_hash    text NOT NULL,
    parent_hash   text,
    block_time    bigint NOT NULL,
    PRIMARY KEY (chain_id, block_number)
);

CREATE TABLE raw_logs (
    id                 bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    chain_id           bigint NOT NULL,
    block_number       bigint NOT NULL,
    block_hash         text NOT NULL,
    transaction_hash   text NOT NULL,
    transaction_index  int,
    log_index          int NOT NULL,
    address            text NOT NULL,
    topics             bytea NOT NULL,
    data               bytea NOT NULL,
    block_time         bigint NOT NULL,
    reason             text NOT NULL CHECK (reason IN ('unknown_topic', 'malformed', 'ambiguous')),
    retracted_at       timestamptz,
    created_at         timestamptz NOT NULL DEFAULT now(),
    UNIQUE (chain_id, transaction_hash, log_index)
);

CREATE INDEX raw_logs_block ON raw_logs (chain_id, block_number);

CREATE TABLE registry_contracts (
    chain_id           bigint NOT NULL,
    registry           text NOT NULL CHECK (registry IN ('identity', 'reputation', 'validation')),
    address            text,
    version            text,
    implementation     text,
    identity_registry  text,
    checked_at         timestamptz,
    upgraded_at        timestamptz,
    PRIMARY KEY (chain_id, registry)
);

CREATE TABLE rpc_providers (
    chain_id              bigint NOT NULL,
    name                  text NOT NULL,
    score                 double precision,
    latency_ms            double precision,
    successes             bigint NOT NULL DEFAULT 0,
    failures              bigint NOT NULL DEFAULT 0,
    consecutive_failures  int NOT NULL DEFAULT 0,
    state                 text,
    open_until            timestamptz,
    last_error            text,
    last_ok_at            timestamptz,
    updated_at            timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (chain_id, name)
);

CREATE TABLE process_heartbeats (
    instance  text NOT NULL,
    role      text NOT NULL,
    version   text,
    status    jsonb,
    seen_at   timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (instance, role)
);

CREATE TABLE pipeline_marks (
    name   text PRIMARY KEY,
    value  bigint NOT NULL
);
