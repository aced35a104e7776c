CREATE INDEX agents_registered ON agents (chain_id, coalesce(registered_time, 0), agent_id);

CREATE INDEX agents_updated ON agents (chain_id, updated_time, agent_id);

CREATE INDEX agents_feedback ON agents (chain_id, feedback_count, agent_id);

CREATE INDEX agents_owner ON agents (owner, chain_id, coalesce(registered_time, 0), agent_id);

CREATE INDEX agents_wallet ON agents (agent_wallet, chain_id, coalesce(registered_time, 0), agent_id)
    WHERE agent_wallet IS NOT NULL;

CREATE INDEX feedback_order ON feedback (chain_id, agent_id, block_number, log_index);

CREATE INDEX feedback_tag ON feedback (left(tag1, 200), chain_id, agent_id) WHERE NOT revoked AND tag1 <> '';

CREATE INDEX feedback_responses_of ON feedback_responses (
    chain_id, agent_id, client_address, feedback_index, block_number, log_index
);

CREATE INDEX validations_order ON validations (
    chain_id, agent_id, coalesce(requested_block, -1), coalesce(requested_log, -1), request_hash
);

CREATE INDEX validation_responses_of ON validation_responses (
    chain_id, agent_id, request_hash, block_number, log_index
);

-- Words as those of events are made.
CREATE FUNCTION text_words(content text) RETURNS tsvector LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT array_to_tsvector(array_remove(regexp_split_to_array(lower(left(content, 500)), '[\s!-/:-@\[-`{-~]+'), ''))
$$;

CREATE INDEX agent_words_words ON agent_words USING gin (words);

CREATE INDEX agent_metadata_words ON agent_metadata USING gin (text_words(value_text)) WHERE value_text IS NOT NULL;
