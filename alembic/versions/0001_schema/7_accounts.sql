CREATE TABLE users (
    id              text PRIMARY KEY,
    username        text NOT NULL,
    email           text,
    email_verified  boolean NOT NULL DEFAULT false,
    name            text,
    avatar          text,
    password_hash   text,
    is_active       boolean NOT NULL DEFAULT true,
    mfa_enabled     boolean NOT NULL DEFAULT false,
    mfa_secret      bytea,
    mfa_last_step   bigint,
    token_version   int NOT NULL DEFAULT 0,
    created_at      timestamptz NOT NULL DEFAULT now(),
    updated_at      timestamptz NOT NULL DEFAULT now(),
    last_login_at   timestamptz
);

CREATE UNIQUE INDEX users_username ON users (lower(username));

CREATE UNIQUE INDEX users_verified_email ON users (lower(email)) WHERE email_verified;

CREATE INDEX users_email ON users (lower(email));

CREATE TABLE organizations (
    id           text PRIMARY KEY,
    name         text NOT NULL,
    slug         text NOT NULL,
    description  text,
    owner_id     text NOT NULL REFERENCES users,
    plan         text NOT NULL DEFAULT 'free' CHECK (plan IN ('free', 'starter', 'pro', 'enterprise')),
    is_personal  boolean NOT NULL DEFAULT false,
    created_at   timestamptz NOT NULL DEFAULT now(),
    updated_at   timestamptz NOT NULL DEFAULT now(),
    UNIQUE (owner_id, slug)
);

CREATE TABLE memberships (
    organization_id  text NOT NULL REFERENCES organizations ON DELETE CASCADE,
    user_id          text NOT NULL REFERENCES users ON DELETE CASCADE,
    role             text NOT NULL CHECK (role IN ('owner', 'admin', 'member', 'viewer')),
    invited_by       text,
    created_at       timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (organization_id, user_id)
);

CREATE INDEX memberships_user ON memberships (user_id);

CREATE TABLE api_keys (
    id                   text PRIMARY KEY,
    organization_id      text NOT NULL REFERENCES organizations ON DELETE CASCADE,
    name                 text NOT NULL,
    key_prefix           text NOT NULL UNIQUE,
    key_hash             bytea NOT NULL,
    environment          text NOT NULL CHECK (environment IN ('live', 'test')),
    key_type             text NOT NULL DEFAULT 'standard' CHECK (key_type IN ('standard', 'restricted', 'admin')),
    permissions          text[] NOT NULL DEFAULT '{read}',
    scopes               text[] NOT NULL DEFAULT '{}',
    rate_limit_override  int,
    is_active            boolean NOT NULL DEFAULT true,
    expires_at           timestamptz,
    last_used_at         timestamptz,
    last_used_ip         text,
    revoked_at           timestamptz,
    revoked_reason       text,
    replaced_by          text,
    created_by           text,
    created_at           timestamptz NOT NULL DEFAULT now()
);

CREATE INDEX api_keys_organization ON api_keys (organization_id, created_at);

CREATE TABLE auth_failures (
    id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    kind        text NOT NULL,
    prefix      text CHECK (char_length(prefix) <= 16),
    address     text,
    user_agent  text,
    route       text,
    created_at  timestamptz NOT NULL DEFAULT now()
);

CREATE INDEX auth_failures_time ON auth_failures (created_at);

CREATE TABLE audit_log (
    id               bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    organization_id  text,
    event            text NOT NULL,
    occurred_at      timestamptz NOT NULL DEFAULT now(),
    actor_type       text NOT NULL CHECK (actor_type IN ('user', 'api_key', 'system')),
    actor_id         text,
    actor_name       text,
    ip               text,
    user_agent       text,
    request_id       text,
    target_type      text,
    target_id        text,
    details          jsonb NOT NULL DEFAULT '{}'
);

CREATE INDEX audit_log_organization ON audit_log (organization_id, id);

CREATE INDEX audit_log_actor ON audit_log (actor_id, id) WHERE actor_id IS NOT NULL;

CREATE INDEX audit_log_target ON audit_log (target_id, id) WHERE target_id IS NOT NULL;

CREATE INDEX audit_log_time ON audit_log (occurred_at);

CREATE FUNCTION keep_audit_log() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'DELETE' AND current_setting('agentauri.retention', true) = 'on' THEN
        RETURN NULL;
    END IF;
    RAISE EXCEPTION 'audit_log is append-only' USING ERRCODE = 'insufficient_privilege';
END $$;

CREATE TRIGGER keep_audit_log_trigger BEFORE UPDATE OR DELETE OR TRUNCATE ON audit_log
    FOR EACH STATEMENT EXECUTE FUNCTION keep_audit_log();
