CREATE TABLE identities (
    id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    user_id     text NOT NULL REFERENCES users ON DELETE CASCADE,
    provider    text NOT NULL,
    subject     text NOT NULL,
    created_at  timestamptz NOT NULL DEFAULT now(),
    UNIQUE (user_id, provider, subject)
);

CREATE TABLE sessions (
    id            text PRIMARY KEY,
    user_id       text NOT NULL REFERENCES users ON DELETE CASCADE,
    ip            text,
    user_agent    text,
    created_at    timestamptz NOT NULL DEFAULT now(),
    last_used_at  timestamptz NOT NULL DEFAULT now(),
    expires_at    timestamptz NOT NULL,
    ended_at      timestamptz
);

CREATE INDEX sessions_user ON sessions (user_id, created_at);

CREATE INDEX sessions_end ON sessions (least(ended_at, expires_at));

-- A token is kept after its use: that it comes back is how a theft shows.
CREATE TABLE refresh_tokens (
    hash        bytea PRIMARY KEY,
    session_id  text NOT NULL REFERENCES sessions ON DELETE CASCADE,
    created_at  timestamptz NOT NULL DEFAULT now(),
    expires_at  timestamptz NOT NULL,
    rotated_at  timestamptz
);

CREATE INDEX refresh_tokens_session ON refresh_tokens (session_id);

-- identifier is the hash of the name that was typed.
CREATE TABLE lockouts (
    identifier       text NOT NULL,
    address          text NOT NULL,
    failures         int NOT NULL,
    window_start     timestamptz NOT NULL,
    level            int NOT NULL,
    locked_until     timestamptz,
    last_failure_at  timestamptz NOT NULL,
    PRIMARY KEY (identifier, address)
);

CREATE INDEX lockouts_time ON lockouts (last_failure_at);

CREATE INDEX auth_failures_prefix ON auth_failures (prefix, created_at) WHERE kind = 'password';
