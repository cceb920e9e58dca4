-- A change of roles ends sessions, too. SQLite changes a check only with its table, and a table that others refer to
-- with these: dropping it would delete their rows.
CREATE TABLE new_sessions (
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
INSERT INTO new_sessions SELECT id, user_id, create_time, expire_time, end_time, end_reason, scope FROM sessions;
CREATE TABLE new_refresh_tokens (
    hash BLOB PRIMARY KEY NOT NULL,
    session_id BLOB NOT NULL REFERENCES new_sessions (id) ON DELETE CASCADE,
    create_time TEXT NOT NULL,
    use_time TEXT,
    -- With it and the token's text, which is stored nowhere, the token that it was exchanged for is made again: for a
    -- client whose answer was lost. Null once nobody may ask for that any more.
    successor_salt BLOB
);
INSERT INTO new_refresh_tokens (hash, session_id, create_time, use_time)
    SELECT hash, session_id, create_time, use_time FROM refresh_tokens;
DROP TABLE refresh_tokens;
DROP TABLE sessions;
ALTER TABLE new_sessions RENAME TO sessions;
ALTER TABLE new_refresh_tokens RENAME TO refresh_tokens;
CREATE INDEX sessions_open ON sessions (user_id) WHERE end_time IS NULL;
CREATE INDEX sessions_expire ON sessions (expire_time);
-- Those that ended last are asked for all the time, in this order.
CREATE INDEX sessions_end ON sessions (end_time, id) WHERE end_time IS NOT NULL;
CREATE INDEX refresh_tokens_session ON refresh_tokens (session_id);
CREATE INDEX refresh_tokens_used ON refresh_tokens (use_time) WHERE use_time IS NOT NULL;
CREATE INDEX refresh_tokens_salted ON refresh_tokens (use_time) WHERE successor_salt IS NOT NULL;
