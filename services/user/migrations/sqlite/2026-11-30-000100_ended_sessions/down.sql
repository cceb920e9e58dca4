CREATE TABLE new_sessions (
    id BLOB PRIMARY KEY NOT NULL,
    user_id BLOB NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    create_time TEXT NOT NULL,
    -- Moves on with each refresh: a session that is not used runs out.
    expire_time TEXT NOT NULL,
    end_time TEXT,
    end_reason TEXT CHECK (end_reason IN
        ('LOG_OUT', 'PASSWORD_CHANGED', 'ACCOUNT_DISABLED', 'TOKEN_REUSED')),
    -- What the session's tokens are limited to (RFC 8693): names with spaces between them. Null: to nothing.
    scope TEXT CHECK (scope <> ''),
    CHECK ((end_time IS NULL) = (end_reason IS NULL))
);
INSERT INTO new_sessions SELECT id, user_id, create_time, expire_time, end_time, 
    CASE end_reason WHEN 'ROLES_CHANGED' THEN 'ACCOUNT_DISABLED' ELSE end_reason END, scope FROM sessions;
CREATE TABLE new_refresh_tokens (
    hash BLOB PRIMARY KEY NOT NULL,
    session_id BLOB NOT NULL REFERENCES new_sessions (id) ON DELETE CASCADE,
    create_time TEXT NOT NULL,
    use_time TEXT
);
INSERT INTO new_refresh_tokens (hash, session_id, create_time, use_time)
    SELECT hash, session_id, create_time, use_time FROM refresh_tokens;
DROP TABLE refresh_tokens;
DROP TABLE sessions;
ALTER TABLE new_sessions RENAME TO sessions;
ALTER TABLE new_refresh_tokens RENAME TO refresh_tokens;
CREATE INDEX sessions_open ON sessions (user_id) WHERE end_time IS NULL;
CREATE INDEX sessions_expire ON sessions (expire_time);
CREATE INDEX sessions_end ON sessions (end_time) WHERE end_time IS NOT NULL;
CREATE INDEX refresh_tokens_session ON refresh_tokens (session_id);
CREATE INDEX refresh_tokens_used ON refresh_tokens (use_time) WHERE use_time IS NOT NULL;
