-- Whoever changes what is told of a chain's agents is alone at it until the end of the transaction.
CREATE FUNCTION lock_agents(of_chain bigint) RETURNS void LANGUAGE sql AS $$
    SELECT pg_advisory_xact_lock(hashtextextended('agentauri.agents.' || of_chain, 0))
$$;

-- Exactly the bytes where a log gave them; of a value that somebody wrote by hand what it most likely means.
CREATE FUNCTION metadata_bytes(args jsonb, plain text) RETURNS bytea LANGUAGE sql STABLE AS $$
    SELECT CASE WHEN coalesce(args ->> 'metadataValue', plain) ~ '^0x([0-9a-f]{2})*$'
                THEN decode(substr(coalesce(args ->> 'metadataValue', plain), 3), 'hex')
                ELSE convert_to(coalesce(plain, ''), 'UTF8') END
$$;

-- What these events add to the state of their chain's agents. The caller sees to it that the chain is locked, that all
-- of them are canonical, and that of the agents in them no later log is in the state.
-- Returns where indexes of feedback are missing before one of these, at most 21 such places.
-- A plan that was made while the tables were small takes the wrong index later, so none is kept. None reads a table from
-- end to end, and OFFSET 0 has rows looked up one by one, by their key.
CREATE FUNCTION fold_events(of_chain bigint, seqs bigint[])
    RETURNS TABLE (agent_id numeric, client_address text, first_missing numeric, last_missing numeric)
    LANGUAGE plpgsql SET search_path FROM CURRENT
    SET enable_seqscan = off SET plan_cache_mode = force_custom_plan SET jit = off SET work_mem = '64MB' AS $$
#variable_conflict use_column
DECLARE
    rated bigint[]; revoked_by bigint[]; responded bigint[]; requested bigint[]; answered bigint[];
    approvals bigint[]; identity bigint[]; uris bigint[]; described bigint[];
    new_feedback numeric[]; new_clients numeric[]; new_validations numeric[]; more numeric[];
BEGIN
    -- A name longer than any address is somebody's joke, and no index has room for it.
    SELECT array_agg(seq) FILTER (WHERE kind = 'reputation.NewFeedback' AND is_feedback AND NOT args ? 'layout'),
           array_agg(seq) FILTER (WHERE kind = 'reputation.FeedbackRevoked' AND is_feedback),
           array_agg(seq) FILTER (WHERE kind = 'reputation.ResponseAppended' AND is_feedback),
           array_agg(seq) FILTER (WHERE kind = 'validation.ValidationRequest' AND length(request_hash) <= 200),
           array_agg(seq) FILTER (WHERE kind = 'validation.ValidationResponse' AND length(request_hash) <= 200),
           array_agg(seq) FILTER (WHERE kind = 'identity.ApprovalForAll'),
           array_agg(seq) FILTER (WHERE kind IN ('identity.Registered', 'identity.URIUpdated', 'identity.MetadataSet',
                                                 'identity.MetadataUpdate'))
    INTO rated, revoked_by, responded, requested, answered, approvals, identity
    FROM (SELECT seq, registry || '.' || event_type AS kind, request_hash, args,
                 agent_id IS NOT NULL AND length(client_address) <= 200 AND feedback_index IS NOT NULL AS is_feedback
          FROM events WHERE seq = ANY(seqs) AND (agent_id IS NOT NULL OR event_type = 'ApprovalForAll')) AS logs;
    -- Two logs report what was written earlier, and say nothing where something was written since: `Registered` without
    -- a URI, unless the hint just before it shows that one was set, and the wallet that follows upon `Registered`.
    IF identity IS NOT NULL THEN
        SELECT array_agg(seq) FILTER (WHERE event_type = 'URIUpdated'
                                      OR (event_type = 'Registered' AND (token_uri <> '' OR hinted))),
               array_agg(seq) FILTER (WHERE event_type = 'MetadataSet'
                                      AND NOT (is_wallet AND repeats AND (earlier > 0 OR EXISTS (
                                          SELECT FROM agent_metadata AS m
                                          WHERE m.chain_id = of_chain AND m.agent_id = logs.agent_id
                                            AND md5(m.key) = md5('agentWallet') OFFSET 0))))
        INTO uris, described
        FROM (SELECT seq, agent_id, event_type, token_uri, metadata_key = 'agentWallet' AS is_wallet,
                     coalesce(bool_or(event_type = 'MetadataUpdate') OVER just_before, false) AS hinted,
                     coalesce(bool_or(event_type = 'Registered') OVER just_before, false) AS repeats,
                     count(*) FILTER (WHERE metadata_key = 'agentWallet') OVER (
                         PARTITION BY agent_id ORDER BY block_number, log_index, seq
                         ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) AS earlier
              FROM events WHERE seq = ANY(identity)
              WINDOW just_before AS (PARTITION BY agent_id, block_number ORDER BY log_index
                                     RANGE BETWEEN 1 PRECEDING AND 1 PRECEDING)) AS logs
        WHERE event_type <> 'MetadataUpdate' AND (event_type = 'MetadataSet' AND is_wallet IS NOT NULL
                                                  OR event_type <> 'MetadataSet' AND token_uri IS NOT NULL);
        INSERT INTO agent_metadata (chain_id, agent_id, key, value, value_text, updated_block)
        SELECT DISTINCT ON (agent_id, metadata_key) of_chain, agent_id, metadata_key, bytes,
               CASE WHEN bytes = convert_to(metadata_value, 'UTF8') THEN metadata_value END, block_number
        FROM events, metadata_bytes(args, metadata_value) AS bytes WHERE seq = ANY(described)
        ORDER BY agent_id, metadata_key, block_number DESC, log_index DESC, seq DESC
        ON CONFLICT (chain_id, agent_id, md5(key)) DO UPDATE SET
            value = excluded.value, value_text = excluded.value_text, updated_block = excluded.updated_block;
        INSERT INTO agent_words (chain_id, agent_id, words)
        SELECT DISTINCT ON (agent_id) of_chain, agent_id, text_words(token_uri)
        FROM events WHERE seq = ANY(uris) ORDER BY agent_id, block_number DESC, log_index DESC, seq DESC
        ON CONFLICT (chain_id, agent_id) DO UPDATE SET words = excluded.words;
    END IF;
    IF approvals IS NOT NULL THEN
        INSERT INTO agent_operators AS known (chain_id, owner, operator, approved_block, updated_block, updated_log)
        SELECT DISTINCT ON (owner, args ->> 'operator') of_chain, owner, args ->> 'operator',
               CASE WHEN args ->> 'approved' = 'true' THEN block_number END, block_number, log_index
        FROM events WHERE seq = ANY(approvals) AND owner IS NOT NULL AND length(args ->> 'operator') <= 200
        ORDER BY owner, args ->> 'operator', block_number DESC, log_index DESC, seq DESC
        ON CONFLICT (chain_id, owner, operator) DO UPDATE SET
            approved_block = excluded.approved_block, updated_block = excluded.updated_block,
            updated_log = excluded.updated_log
        WHERE (excluded.updated_block, excluded.updated_log) > (known.updated_block, known.updated_log);
    END IF;
    IF rated IS NOT NULL THEN
        RETURN QUERY SELECT agent_id, client_address, previous + 1, feedback_index - 1
        FROM (SELECT agent_id, client_address, feedback_index, coalesce(
                  lag(feedback_index) OVER (PARTITION BY agent_id, client_address ORDER BY feedback_index),
                  (SELECT f.feedback_index FROM feedback AS f
                   WHERE f.chain_id = of_chain AND f.agent_id = e.agent_id AND f.client_address = e.client_address
                     AND NOT f.incomplete ORDER BY f.feedback_index DESC LIMIT 1), 0) AS previous
              FROM events AS e WHERE seq = ANY(rated)) AS given
        WHERE feedback_index > previous + 1
          AND feedback_index - 1 - previous > (  -- where old layouts counted on, nothing is missing
              SELECT count(DISTINCT o.feedback_index) FROM events AS o
              WHERE o.client_address = given.client_address AND o.agent_id = given.agent_id AND o.chain_id = of_chain
                AND o.event_type = 'NewFeedback' AND o.args ? 'layout' AND o.retracted_at IS NULL
                AND o.feedback_index > previous AND o.feedback_index < given.feedback_index)
        LIMIT 21;
    END IF;
    IF rated IS NOT NULL OR revoked_by IS NOT NULL OR responded IS NOT NULL THEN
        SELECT array_agg(agent_id) INTO new_clients
        FROM (SELECT DISTINCT agent_id, client_address FROM events
              WHERE seq = ANY(rated || revoked_by || responded)) AS pairs
        WHERE NOT EXISTS (SELECT FROM feedback AS f WHERE f.chain_id = of_chain AND f.agent_id = pairs.agent_id
                          AND f.client_address = pairs.client_address OFFSET 0);
        -- An index that was used before is used anew: the contract has forgotten what it held until then.
        WITH put AS (
            INSERT INTO feedback AS known (chain_id, agent_id, client_address, feedback_index, value_raw,
                value_decimals, score, tag1, tag2, endpoint, file_uri, file_hash, revoked, block_number, log_index,
                block_time, transaction_hash, event_seq, incomplete)
            SELECT DISTINCT ON (agent_id, client_address, feedback_index) of_chain, agent_id, client_address,
                   feedback_index, value_raw, value_decimals, score, tag1, tag2, endpoint, file_uri, file_hash, false,
                   block_number, log_index, "timestamp", transaction_hash, seq, false
            FROM events WHERE seq = ANY(rated)
            ORDER BY agent_id, client_address, feedback_index, block_number DESC, log_index DESC, seq DESC
            ON CONFLICT (chain_id, agent_id, client_address, feedback_index) DO UPDATE SET
                value_raw = excluded.value_raw, value_decimals = excluded.value_decimals, score = excluded.score,
                tag1 = excluded.tag1, tag2 = excluded.tag2, endpoint = excluded.endpoint,
                file_uri = excluded.file_uri, file_hash = excluded.file_hash, revoked = false, revoked_block = NULL,
                block_number = excluded.block_number, log_index = excluded.log_index,
                block_time = excluded.block_time, transaction_hash = excluded.transaction_hash,
                event_seq = excluded.event_seq, incomplete = false
            RETURNING known.agent_id, known.xmax = 0 AS is_new
        ) SELECT array_agg(agent_id) FILTER (WHERE is_new) INTO new_feedback FROM put;
    END IF;
    IF revoked_by IS NOT NULL OR responded IS NOT NULL THEN
        WITH put AS (
            INSERT INTO feedback AS known (chain_id, agent_id, client_address, feedback_index, revoked, incomplete)
            SELECT DISTINCT of_chain, agent_id, client_address, feedback_index, false, true
            FROM events WHERE seq = ANY(revoked_by || responded)
            ON CONFLICT (chain_id, agent_id, client_address, feedback_index) DO NOTHING
            RETURNING known.agent_id
        ) SELECT array_agg(agent_id) INTO more FROM put;
        new_feedback := new_feedback || more;
        UPDATE feedback AS known SET revoked = true, revoked_block = first.block_number
        FROM (SELECT DISTINCT ON (e.agent_id, e.client_address, e.feedback_index)
                     e.agent_id, e.client_address, e.feedback_index, e.block_number
              FROM events AS e CROSS JOIN LATERAL (
                  SELECT * FROM feedback AS f WHERE f.chain_id = of_chain AND f.agent_id = e.agent_id
                      AND f.client_address = e.client_address AND f.feedback_index = e.feedback_index OFFSET 0) AS f
              WHERE e.seq = ANY(revoked_by)
                AND (f.incomplete OR (e.block_number, e.log_index) > (f.block_number, f.log_index))
              ORDER BY e.agent_id, e.client_address, e.feedback_index, e.block_number, e.log_index) AS first
        WHERE known.chain_id = of_chain AND known.agent_id = first.agent_id
          AND known.client_address = first.client_address AND known.feedback_index = first.feedback_index
          AND NOT known.revoked;
        INSERT INTO feedback_responses (event_seq, chain_id, agent_id, client_address, feedback_index, responder,
            response_uri, response_hash, block_number, log_index, block_time, transaction_hash)
        SELECT seq, of_chain, agent_id, client_address, feedback_index, responder, response_uri, response_hash,
               block_number, log_index, "timestamp", transaction_hash
        FROM events WHERE seq = ANY(responded);
    END IF;
    IF requested IS NOT NULL THEN
        WITH put AS (
            INSERT INTO validations AS known (chain_id, agent_id, request_hash, validator_address, request_uri,
                requested_block, requested_log, requested_time, incomplete)
            SELECT DISTINCT ON (agent_id, request_hash) of_chain, agent_id, request_hash, validator_address,
                   request_uri, block_number, log_index, "timestamp", false
            FROM events WHERE seq = ANY(requested)
            ORDER BY agent_id, request_hash, block_number, log_index, seq
            ON CONFLICT (chain_id, agent_id, request_hash) DO UPDATE SET
                validator_address = excluded.validator_address, request_uri = excluded.request_uri,
                requested_block = excluded.requested_block, requested_log = excluded.requested_log,
                requested_time = excluded.requested_time, incomplete = false
            WHERE known.incomplete
            RETURNING known.agent_id, known.xmax = 0 AS is_new
        ) SELECT array_agg(agent_id) FILTER (WHERE is_new) INTO new_validations FROM put;
    END IF;
    IF answered IS NOT NULL THEN
        WITH put AS (
            INSERT INTO validations AS known (chain_id, agent_id, request_hash, validator_address, response,
                response_uri, response_hash, tag, responses, last_response_block, last_response_time, incomplete)
            SELECT DISTINCT ON (agent_id, request_hash) of_chain, agent_id, request_hash, validator_address, response,
                   response_uri, response_hash, tag, count(*) OVER (PARTITION BY agent_id, request_hash),
                   block_number, "timestamp", true
            FROM events WHERE seq = ANY(answered)
            ORDER BY agent_id, request_hash, block_number DESC, log_index DESC, seq DESC
            ON CONFLICT (chain_id, agent_id, request_hash) DO UPDATE SET
                response = excluded.response, response_uri = excluded.response_uri,
                response_hash = excluded.response_hash, tag = excluded.tag,
                responses = known.responses + excluded.responses,
                last_response_block = excluded.last_response_block, last_response_time = excluded.last_response_time
            RETURNING known.agent_id, known.xmax = 0 AS is_new
        ) SELECT array_agg(agent_id) FILTER (WHERE is_new) INTO more FROM put;
        new_validations := new_validations || more;
        INSERT INTO validation_responses (event_seq, chain_id, agent_id, request_hash, response, response_uri,
            response_hash, tag, block_number, log_index, block_time, transaction_hash)
        SELECT seq, of_chain, agent_id, request_hash, response, response_uri, response_hash, tag, block_number,
               log_index, "timestamp", transaction_hash
        FROM events WHERE seq = ANY(answered);
    END IF;
    INSERT INTO agents AS known (chain_id, agent_id, owner, agent_uri, agent_wallet, approved, registered_block,
        registered_time, updated_block, updated_log, updated_time, feedback_count, client_count, validation_count,
        last_feedback_time)
    SELECT of_chain, found.agent_id, coalesce(found.owner, a.owner), coalesce(found.agent_uri, a.agent_uri),
           CASE WHEN found.wallet IS NULL THEN a.agent_wallet ELSE nullif(found.wallet, '') END,
           CASE WHEN found.approved IS NULL THEN a.approved ELSE nullif(found.approved, '') END,
           coalesce(a.registered_block, found.registered[1]), coalesce(a.registered_time, found.registered[3]),
           found.latest[1], found.latest[2], found.latest[3],
           coalesce(a.feedback_count, 0) + found.feedback, coalesce(a.client_count, 0) + found.clients,
           coalesce(a.validation_count, 0) + found.validations, greatest(a.last_feedback_time, found.last_feedback)
    FROM (
        SELECT agent_id,
               (array_agg(owner ORDER BY block_number DESC, log_index DESC, seq DESC)
                    FILTER (WHERE owner IS NOT NULL))[1] AS owner,
               (array_agg(uri ORDER BY block_number DESC, log_index DESC, seq DESC)
                    FILTER (WHERE uri IS NOT NULL))[1] AS agent_uri,
               (array_agg(wallet ORDER BY block_number DESC, log_index DESC, seq DESC)
                    FILTER (WHERE wallet IS NOT NULL))[1] AS wallet,
               (array_agg(approved ORDER BY block_number DESC, log_index DESC, seq DESC)
                    FILTER (WHERE approved IS NOT NULL))[1] AS approved,
               min(place) FILTER (WHERE registers) AS registered,
               max(place) AS latest,
               sum(feedback) AS feedback, sum(clients) AS clients, sum(validations) AS validations,
               max(rated_at) AS last_feedback
        FROM (
            SELECT agent_id, block_number, log_index, seq, ARRAY[block_number, log_index, "timestamp"] AS place,
                   CASE WHEN registry = 'identity' AND event_type = 'Transfer' THEN args ->> 'to' END AS owner,
                   NULL AS uri, NULL AS wallet,
                   CASE WHEN registry <> 'identity' THEN NULL
                        WHEN event_type = 'Transfer' THEN ''
                        WHEN event_type = 'Approval' AND args ->> 'approved' = '0x' || repeat('0', 40) THEN ''
                        WHEN event_type = 'Approval' THEN args ->> 'approved' END AS approved,
                   registry = 'identity' AND (event_type = 'Registered' OR (event_type = 'Transfer'
                       AND args ->> 'from' = '0x' || repeat('0', 40))) AS registers,
                   0 AS feedback, 0 AS clients, 0 AS validations, NULL::bigint AS rated_at
            FROM events WHERE seq = ANY(seqs) AND agent_id IS NOT NULL
            UNION ALL SELECT agent_id, block_number, log_index, seq, NULL, NULL, token_uri, NULL, NULL, false,
                             0, 0, 0, NULL FROM events WHERE seq = ANY(uris)
            UNION ALL SELECT agent_id, block_number, log_index, seq, NULL, NULL, NULL,
                             CASE WHEN length(bytes) = 20 THEN '0x' || encode(bytes, 'hex') ELSE '' END, NULL, false,
                             0, 0, 0, NULL
                      FROM events, metadata_bytes(args, metadata_value) AS bytes
                      WHERE seq = ANY(described) AND metadata_key = 'agentWallet'
            UNION ALL SELECT agent_id, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, false, 0, 0, 0, "timestamp"
                      FROM events WHERE seq = ANY(rated)
            UNION ALL SELECT one, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, false, 1, 0, 0, NULL
                      FROM unnest(new_feedback) AS one
            UNION ALL SELECT one, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, false, 0, 1, 0, NULL
                      FROM unnest(new_clients) AS one
            UNION ALL SELECT one, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, false, 0, 0, 1, NULL
                      FROM unnest(new_validations) AS one
        ) AS logs GROUP BY agent_id
    ) AS found LEFT JOIN LATERAL (
        SELECT * FROM agents AS a WHERE a.chain_id = of_chain AND a.agent_id = found.agent_id OFFSET 0) AS a ON true
    ON CONFLICT (chain_id, agent_id) DO UPDATE SET
        owner = excluded.owner, agent_uri = excluded.agent_uri, agent_wallet = excluded.agent_wallet,
        approved = excluded.approved, registered_block = excluded.registered_block,
        registered_time = excluded.registered_time, updated_block = excluded.updated_block,
        updated_log = excluded.updated_log, updated_time = excluded.updated_time,
        feedback_count = excluded.feedback_count, client_count = excluded.client_count,
        validation_count = excluded.validation_count, last_feedback_time = excluded.last_feedback_time;
END $$;

-- The state of these agents afresh, from all of their canonical events.
CREATE FUNCTION refold_agents(of_chain bigint, who numeric[]) RETURNS void LANGUAGE plpgsql
    SET search_path FROM CURRENT SET enable_seqscan = off SET plan_cache_mode = force_custom_plan AS $$
BEGIN
    DELETE FROM agents WHERE chain_id = of_chain AND agent_id = ANY(who);
    DELETE FROM agent_metadata WHERE chain_id = of_chain AND agent_id = ANY(who);
    DELETE FROM agent_words WHERE chain_id = of_chain AND agent_id = ANY(who);
    DELETE FROM feedback WHERE chain_id = of_chain AND agent_id = ANY(who);
    DELETE FROM feedback_responses WHERE chain_id = of_chain AND agent_id = ANY(who);
    DELETE FROM validations WHERE chain_id = of_chain AND agent_id = ANY(who);
    DELETE FROM validation_responses WHERE chain_id = of_chain AND agent_id = ANY(who);
    PERFORM fold_events(of_chain, ARRAY(
        SELECT seq FROM events WHERE agent_id = ANY(who) AND chain_id = of_chain AND retracted_at IS NULL));
END $$;

-- The operators of these owners afresh, likewise.
CREATE FUNCTION refold_operators(of_chain bigint, of_owners text[]) RETURNS void LANGUAGE plpgsql
    SET search_path FROM CURRENT SET enable_seqscan = off SET plan_cache_mode = force_custom_plan AS $$
BEGIN
    DELETE FROM agent_operators WHERE chain_id = of_chain AND owner = ANY(of_owners);
    PERFORM fold_events(of_chain, ARRAY(
        SELECT seq FROM events WHERE owner = ANY(of_owners) AND event_type = 'ApprovalForAll' AND chain_id = of_chain
            AND agent_id IS NULL AND retracted_at IS NULL));
END $$;

-- Events that have become canonical: added to the state, or where something later is in it, put in their place.
CREATE FUNCTION project_events(of_chain bigint, seqs bigint[])
    RETURNS TABLE (agent_id numeric, client_address text, first_missing numeric, last_missing numeric)
    LANGUAGE plpgsql SET search_path FROM CURRENT
    SET enable_seqscan = off SET plan_cache_mode = force_custom_plan AS $$
#variable_conflict use_column
DECLARE
    behind numeric[];
    lowest bigint;
BEGIN
    PERFORM lock_agents(of_chain);
    SELECT min(block_number) INTO lowest FROM events WHERE seq = ANY(seqs);
    -- Nothing is later than these where the chain has nothing else at their blocks and above, as is usual.
    IF cardinality(seqs) < (SELECT count(*) FROM (
        SELECT FROM events WHERE chain_id = of_chain AND block_number >= lowest AND retracted_at IS NULL
        LIMIT cardinality(seqs) + 1) AS at_least)
    THEN
        SELECT array_agg(DISTINCT e.agent_id) INTO behind
        FROM events AS e
        WHERE e.seq = ANY(seqs) AND EXISTS (
            SELECT FROM agents AS a WHERE a.chain_id = of_chain AND a.agent_id = e.agent_id
                AND (a.updated_block, a.updated_log) >= (e.block_number, e.log_index) OFFSET 0);
    END IF;
    IF behind IS NOT NULL THEN
        PERFORM refold_agents(of_chain, behind);
        SELECT array_agg(seq) INTO seqs FROM events
        WHERE seq = ANY(seqs) AND (agent_id IS NULL OR agent_id <> ALL(behind));
    END IF;
    RETURN QUERY SELECT * FROM fold_events(of_chain, seqs);
END $$;

-- Events that have changed in any other way, or ceased to be canonical: all that they touch is made afresh.
CREATE FUNCTION reproject_events(of_chain bigint, seqs bigint[]) RETURNS void LANGUAGE plpgsql
    SET search_path FROM CURRENT SET enable_seqscan = off SET plan_cache_mode = force_custom_plan AS $$
BEGIN
    PERFORM lock_agents(of_chain);
    PERFORM refold_agents(of_chain, ARRAY(
        SELECT DISTINCT agent_id FROM events WHERE seq = ANY(seqs) AND agent_id IS NOT NULL));
    PERFORM refold_operators(of_chain, ARRAY(
        SELECT DISTINCT owner FROM events
        WHERE seq = ANY(seqs) AND event_type = 'ApprovalForAll' AND agent_id IS NULL AND owner IS NOT NULL));
END $$;

-- The next agents to be made afresh, of which these many events tell.
CREATE FUNCTION agents_after(of_chain bigint, after numeric, logs int) RETURNS numeric[] LANGUAGE sql STABLE
    SET search_path FROM CURRENT SET enable_seqscan = off AS $$
    SELECT array_agg(DISTINCT agent_id) FROM (
        (SELECT agent_id FROM events WHERE chain_id = of_chain AND agent_id > after ORDER BY agent_id LIMIT logs)
        UNION ALL
        (SELECT agent_id FROM agents WHERE chain_id = of_chain AND agent_id > after ORDER BY agent_id LIMIT logs)
        ORDER BY agent_id LIMIT logs) AS next
$$;

-- Corrects the counters, and tells which were wrong. What still waits in the queue is counted when it leaves it.
-- By differences, so that whoever counts meanwhile is not in the way.
CREATE FUNCTION recount_events(of_chain bigint DEFAULT NULL)
    RETURNS TABLE (chain_id bigint, registry text, event_type text, counted bigint, correct bigint) LANGUAGE sql
    SET search_path FROM CURRENT AS $$
    WITH standing AS (
        SELECT chain_id, registry, event_type, sum(number)::bigint AS count FROM (
            SELECT chain_id, registry, event_type, count(*) AS number FROM events
            WHERE retracted_at IS NULL AND (of_chain IS NULL OR chain_id = of_chain) GROUP BY 1, 2, 3
            UNION ALL
            SELECT e.chain_id, e.registry, e.event_type, CASE q.kind WHEN 'assert' THEN -1 ELSE 1 END
            FROM event_queue AS q JOIN events AS e ON e.seq = q.event_seq
            WHERE q.trigger_id IS NULL AND e.origin <> 'chain' AND (of_chain IS NULL OR e.chain_id = of_chain)
        ) AS parts GROUP BY 1, 2, 3
    ), wrong AS (
        SELECT chain_id, registry, event_type, coalesce(c.count, 0) AS counted, coalesce(s.count, 0) AS correct
        FROM (SELECT * FROM event_counters WHERE of_chain IS NULL OR chain_id = of_chain) AS c
        FULL JOIN standing AS s USING (chain_id, registry, event_type)
        WHERE coalesce(c.count, 0) <> coalesce(s.count, 0)
    ), corrected AS (
        INSERT INTO event_counters AS known (chain_id, registry, event_type, count)
        SELECT chain_id, registry, event_type, correct - counted FROM wrong ORDER BY 1, 2, 3
        ON CONFLICT (chain_id, registry, event_type) DO UPDATE SET count = known.count + excluded.count
    ) SELECT * FROM wrong ORDER BY 1, 2, 3
$$;
