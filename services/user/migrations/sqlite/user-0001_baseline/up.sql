-- Accounts. An email is stored trimmed and in lower case, so UNIQUE means unique to people too.
CREATE TABLE users (
    id BLOB PRIMARY KEY NOT NULL,
    email TEXT NOT NULL CONSTRAINT users_email_key UNIQUE,
    display_name TEXT NOT NULL,
    external_id TEXT CHECK (external_id <> ''),
    -- argon2id in PHC form; null: nobody can log in with a password.
    password_hash TEXT,
    is_staff INTEGER NOT NULL CHECK (is_staff IN (0, 1)),
    is_admin INTEGER NOT NULL CHECK (is_admin IN (0, 1)),
    state TEXT NOT NULL CHECK (state IN ('ACTIVE', 'DISABLED')),
    -- Grows with every change; the etag.
    revision INTEGER NOT NULL,
    create_time TEXT NOT NULL,
    update_time TEXT NOT NULL
);
-- Few accounts have an external id, so the others have no entry.
CREATE UNIQUE INDEX users_external_id_key ON users (external_id) WHERE external_id IS NOT NULL;
CREATE INDEX users_newest ON users (create_time DESC, id DESC);
CREATE INDEX users_admins ON users (id) WHERE is_admin;

-- One log-in and the family of refresh tokens that descends from it.
CREATE TABLE sessions (
    id BLOB PRIMARY KEY NOT NULL,
    user_id BLOB NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    create_time TEXT NOT NULL,
    -- Moves on with each refresh: a session that is not used runs out.
    expire_time TEXT NOT NULL,
    end_time TEXT,
    end_reason TEXT CHECK (end_reason IN
        ('LOG_OUT', 'PASSWORD_CHANGED', 'ROLES_CHANGED', 'ACCOUNT_DISABLED', 'TOKEN_REUSED')),
    -- What the session's tokens are limited to (RFC 8693): names with spaces between them. Null: to nothing.
    scope TEXT CHECK (scope <> ''),
    CHECK ((end_time IS NULL) = (end_reason IS NULL))
);
CREATE INDEX sessions_open ON sessions (user_id) WHERE end_time IS NULL;
CREATE INDEX sessions_expire ON sessions (expire_time);
-- Those that ended last are asked for all the time, in this order.
CREATE INDEX sessions_end ON sessions (end_time, id) WHERE end_time IS NOT NULL;

-- Refresh tokens by the SHA-256 of their text, which is stored nowhere. A used one stays, to tell a reuse.
CREATE TABLE refresh_tokens (
    hash BLOB PRIMARY KEY NOT NULL,
    session_id BLOB NOT NULL REFERENCES sessions (id) ON DELETE CASCADE,
    create_time TEXT NOT NULL,
    use_time TEXT,
    -- With it and the token's text, which is stored nowhere, the token that it was exchanged for is made again: for a
    -- client whose answer was lost. Null once nobody may ask for that any more.
    successor_salt BLOB
);
CREATE INDEX refresh_tokens_session ON refresh_tokens (session_id);
CREATE INDEX refresh_tokens_used ON refresh_tokens (use_time) WHERE use_time IS NOT NULL;
CREATE INDEX refresh_tokens_salted ON refresh_tokens (use_time) WHERE successor_salt IS NOT NULL;

-- Ed25519 keys that access tokens are signed with.
CREATE TABLE signing_keys (
    kid TEXT PRIMARY KEY NOT NULL,
    -- PKCS#8, DER.
    private_key BLOB NOT NULL,
    public_key BLOB NOT NULL,
    create_time TEXT NOT NULL,
    -- From when it signs: a little after it was published.
    sign_time TEXT NOT NULL,
    -- Until when it signs; null on the newest key.
    retire_time TEXT
);
-- At most one key is the newest: two instances of the service that start or rotate at once cannot both add one.
CREATE UNIQUE INDEX signing_keys_newest ON signing_keys ((retire_time IS NULL)) WHERE retire_time IS NULL;
