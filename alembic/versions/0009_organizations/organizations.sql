-- Calls since the key was made; key_usage forgets after a while.
ALTER TABLE api_keys ADD calls bigint NOT NULL DEFAULT 0;

CREATE TABLE key_usage (
    key_id   text NOT NULL REFERENCES api_keys ON DELETE CASCADE,
    hour     timestamptz NOT NULL,
    calls    bigint NOT NULL,
    limited  bigint NOT NULL,
    PRIMARY KEY (key_id, hour)
);

CREATE INDEX key_usage_hour ON key_usage (hour);

-- Keys that end by themselves are looked for every minute.
CREATE INDEX api_keys_end ON api_keys (least(expires_at, revoked_at)) WHERE is_active;

CREATE INDEX auth_failures_key ON auth_failures (prefix, created_at) WHERE kind = 'api_key';

CREATE TABLE credits (
    organization_id  text PRIMARY KEY REFERENCES organizations ON DELETE CASCADE,
    balance          bigint NOT NULL DEFAULT 0,
    updated_at       timestamptz NOT NULL DEFAULT now()
);

INSERT INTO credits (organization_id) SELECT id FROM organizations;

CREATE FUNCTION open_credits() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO credits (organization_id) VALUES (NEW.id);
    RETURN NULL;
END $$;

CREATE TRIGGER open_credits_trigger AFTER INSERT ON organizations
    FOR EACH ROW EXECUTE FUNCTION open_credits();

-- Amounts are micro-USDC. Rows outlive their organization, as audit rows do.
CREATE TABLE credit_transactions (
    seq               bigint PRIMARY KEY,
    id                text NOT NULL UNIQUE,
    organization_id   text NOT NULL,
    amount            bigint NOT NULL,
    transaction_type  text NOT NULL CHECK (transaction_type IN ('purchase', 'usage', 'refund', 'bonus', 'adjustment')),
    description       text,
    reference_id      text,
    balance_after     bigint NOT NULL,
    created_at        timestamptz NOT NULL DEFAULT now()
);

CREATE INDEX credit_transactions_organization ON credit_transactions (organization_id, seq);

CREATE SEQUENCE credit_transactions_seq OWNED BY credit_transactions.seq;

-- The balance is the sum of the ledger because nothing but a row of the ledger moves it. Rows are numbered under the lock
-- of the balance, so that each tells the balance that the one before it left.
CREATE FUNCTION book_credits() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE credits SET balance = balance + NEW.amount, updated_at = now()
    WHERE organization_id = NEW.organization_id RETURNING balance INTO NEW.balance_after;
    NEW.seq := nextval('credit_transactions_seq');
    RETURN NEW;
END $$;

CREATE TRIGGER book_credits_trigger BEFORE INSERT ON credit_transactions
    FOR EACH ROW EXECUTE FUNCTION book_credits();

CREATE FUNCTION keep_credit_transactions() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'credit_transactions is append-only' USING ERRCODE = 'insufficient_privilege';
END $$;

CREATE TRIGGER keep_credit_transactions_trigger BEFORE UPDATE OR DELETE OR TRUNCATE ON credit_transactions
    FOR EACH STATEMENT EXECUTE FUNCTION keep_credit_transactions();
