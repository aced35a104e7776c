CREATE TABLE events (
    seq                bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    id                 text NOT NULL UNIQUE CHECK (char_length(id) BETWEEN 1 AND 200),
    chain_id           bigint NOT NULL,
    block_number       bigint NOT NULL,
    block_hash         text NOT NULL,
    transaction_hash   text NOT NULL,
    log_index          int NOT NULL,
    registry           text NOT NULL CHECK (registry IN ('identity', 'reputation', 'validation')),
    event_type         text NOT NULL,
    "timestamp"        bigint NOT NULL,
    transaction_index  int,
    contract_address   text,
    agent_id           numeric(78, 0),
    owner              text,
    token_uri          text,
    metadata_key       text,
    metadata_value     text,
    client_address     text,
    tag1               text,
    tag2               text,
    tag                text,
    endpoint           text,
    file_uri           text,
    file_hash          text,
    responder          text,
    response_uri       text,
    response_hash      text,
    validator_address  text,
    request_uri        text,
    request_hash       text,
    feedback_index     numeric(20, 0),
    response           int,
    value_raw          numeric(78, 0),
    value_decimals     smallint CHECK (value_decimals BETWEEN 0 AND 255),
    score              numeric,
    args               jsonb NOT NULL DEFAULT '{}',
    topics             bytea,
    data               bytea,
    origin             text NOT NULL DEFAULT 'external',
    epoch              int NOT NULL DEFAULT 0,
    retracted_at       timestamptz,
    settled_at         timestamptz,
    created_at         timestamptz NOT NULL DEFAULT now()
                       CHECK (created_at >= '2015-01-01 00:00:00+00' AND created_at < '2200-01-01 00:00:00+00')
);

CREATE INDEX events_block ON events (chain_id, block_number);

CREATE INDEX events_agent ON events (agent_id, chain_id, seq) WHERE agent_id IS NOT NULL;

CREATE INDEX events_time ON events ("timestamp", seq);

CREATE INDEX events_retracted ON events (retracted_at) WHERE retracted_at IS NOT NULL;

CREATE INDEX events_unsettled ON events (chain_id, block_number) WHERE retracted_at IS NOT NULL AND settled_at IS NULL;

CREATE INDEX events_transaction ON events USING hash (transaction_hash);

CREATE INDEX events_registry ON events (registry, "timestamp", seq);

CREATE INDEX events_type ON events (event_type, "timestamp", seq);

CREATE INDEX events_client ON events (client_address, "timestamp", seq) WHERE client_address IS NOT NULL;

CREATE INDEX events_owner ON events (owner, "timestamp", seq) WHERE owner IS NOT NULL;

CREATE INDEX events_validator ON events (validator_address, "timestamp", seq) WHERE validator_address IS NOT NULL;

CREATE INDEX events_tag1 ON events (left(tag1, 200), "timestamp", seq) WHERE tag1 <> '';

CREATE INDEX events_tag2 ON events (left(tag2, 200), "timestamp", seq) WHERE tag2 <> '';

-- What configuration `simple` makes of the words, at half the price: its parser would first have to be kept from taking
-- a URL's host or path for one word. Each text is cut because a tsvector has a size limit, and no content may refuse an
-- event.
CREATE FUNCTION event_words(
    event_type text, tag1 text, tag2 text, tag text, endpoint text,
    token_uri text, file_uri text, response_uri text, request_uri text
) RETURNS tsvector LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT array_to_tsvector(array_remove(regexp_split_to_array(lower(
        left(event_type, 200)
            || ' ' || coalesce(left(tag1, 200), '') || ' ' || coalesce(left(tag2, 200), '')
            || ' ' || coalesce(left(tag, 200), '') || ' ' || coalesce(left(endpoint, 500), '')
            || ' ' || coalesce(left(token_uri, 500), '') || ' ' || coalesce(left(file_uri, 500), '')
            || ' ' || coalesce(left(response_uri, 500), '') || ' ' || coalesce(left(request_uri, 500), '')),
        '[\s!-/:-@\[-`{-~]+'), ''))
$$;

CREATE INDEX events_words ON events USING gin (
    event_words(event_type, tag1, tag2, tag, endpoint, token_uri, file_uri, response_uri, request_uri)
);
