-- What the registries say now, made of the canonical events and of nothing else. A row tells of one chain's agent; all
-- that is told of an agent depends on that agent's events alone.
CREATE TABLE agents (
    chain_id            bigint NOT NULL,
    agent_id            numeric(78, 0) NOT NULL,
    owner               text,
    agent_uri           text,
    agent_wallet        text,
    approved            text,
    registered_block    bigint,
    registered_time     bigint,
    updated_block       bigint NOT NULL,  -- with the next two: where the last log about it stands
    updated_log         int NOT NULL,
    updated_time        bigint NOT NULL,
    feedback_count      bigint NOT NULL DEFAULT 0,
    client_count        bigint NOT NULL DEFAULT 0,
    validation_count    bigint NOT NULL DEFAULT 0,
    last_feedback_time  bigint,
    PRIMARY KEY (chain_id, agent_id)
);

CREATE TABLE agent_operators (
    chain_id        bigint NOT NULL,
    owner           text NOT NULL,
    operator        text NOT NULL,
    approved_block  bigint,  -- null once it was withdrawn
    updated_block   bigint NOT NULL,
    updated_log     int NOT NULL,
    PRIMARY KEY (chain_id, owner, operator)
);

CREATE TABLE agent_metadata (
    chain_id       bigint NOT NULL,
    agent_id       numeric(78, 0) NOT NULL,
    key            text NOT NULL,
    value          bytea NOT NULL,  -- empty once it was cleared
    value_text     text,
    updated_block  bigint NOT NULL
);

-- A key has no longest length, an index entry does.
CREATE UNIQUE INDEX agent_metadata_key ON agent_metadata (chain_id, agent_id, md5(key));

-- What an agent's URI is searched by. Beside its row, since that changes with every log about it.
CREATE TABLE agent_words (
    chain_id  bigint NOT NULL,
    agent_id  numeric(78, 0) NOT NULL,
    words     tsvector NOT NULL,
    PRIMARY KEY (chain_id, agent_id)
);

CREATE TABLE feedback (
    chain_id          bigint NOT NULL,
    agent_id          numeric(78, 0) NOT NULL,
    client_address    text NOT NULL,
    feedback_index    numeric(20, 0) NOT NULL,
    value_raw         numeric(78, 0),
    value_decimals    smallint,
    score             numeric,
    tag1              text,
    tag2              text,
    endpoint          text,
    file_uri          text,
    file_hash         text,
    revoked           boolean NOT NULL,
    revoked_block     bigint,
    block_number      bigint,
    log_index         int,
    block_time        bigint,
    transaction_hash  text,
    event_seq         bigint,
    incomplete        boolean NOT NULL,  -- only the key is known, and what was said of it later
    PRIMARY KEY (chain_id, agent_id, client_address, feedback_index)
);

CREATE TABLE feedback_responses (
    event_seq         bigint PRIMARY KEY,
    chain_id          bigint NOT NULL,
    agent_id          numeric(78, 0) NOT NULL,
    client_address    text NOT NULL,
    feedback_index    numeric(20, 0) NOT NULL,
    responder         text,
    response_uri      text,
    response_hash     text,
    block_number      bigint NOT NULL,
    log_index         int NOT NULL,
    block_time        bigint NOT NULL,
    transaction_hash  text NOT NULL
);

CREATE TABLE validations (
    chain_id             bigint NOT NULL,
    agent_id             numeric(78, 0) NOT NULL,
    request_hash         text NOT NULL,
    validator_address    text,
    request_uri          text,
    requested_block      bigint,
    requested_log        int,
    requested_time       bigint,
    response             int,  -- of the last response, as the next three; null before the first
    response_uri         text,
    response_hash        text,
    tag                  text,
    responses            int NOT NULL DEFAULT 0,
    last_response_block  bigint,
    last_response_time   bigint,
    incomplete           boolean NOT NULL,  -- answered, but the request is not known
    PRIMARY KEY (chain_id, agent_id, request_hash)
);

CREATE TABLE validation_responses (
    event_seq         bigint PRIMARY KEY,
    chain_id          bigint NOT NULL,
    agent_id          numeric(78, 0) NOT NULL,
    request_hash      text NOT NULL,
    response          int,
    response_uri      text,
    response_hash     text,
    tag               text,
    block_number      bigint NOT NULL,
    log_index         int NOT NULL,
    block_time        bigint NOT NULL,
    transaction_hash  text NOT NULL
);

CREATE TABLE event_counters (
    chain_id    bigint NOT NULL,
    registry    text NOT NULL,
    event_type  text NOT NULL,
    count       bigint NOT NULL,
    PRIMARY KEY (chain_id, registry, event_type)
);
