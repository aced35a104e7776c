CREATE TABLE follows (
    id               text PRIMARY KEY,
    organization_id  text NOT NULL,
    user_id          text NOT NULL,
    environment      text NOT NULL CHECK (environment IN ('live', 'test')),
    chain_id         bigint NOT NULL,
    agent_id         numeric(78, 0) NOT NULL,
    created_at       timestamptz NOT NULL DEFAULT now(),
    updated_at       timestamptz NOT NULL DEFAULT now(),
    UNIQUE (organization_id, environment, chain_id, agent_id)
);

-- The triggers of a follow hold its id.
CREATE INDEX triggers_managed ON triggers (managed_by) WHERE managed_by IS NOT NULL;

-- What runs out is looked for every minute.
CREATE INDEX signing_secrets_expiry ON signing_secrets (expires_at) WHERE expires_at IS NOT NULL;

-- When it was last told that the endpoint keeps failing.
ALTER TABLE circuit_breaker_state ADD told_at timestamptz;
