-- What users and staff see of a session: when and from where it was last used, and the program that logged in.
-- Null or empty: a session from before, or nothing is known.
ALTER TABLE sessions ADD COLUMN last_use_time timestamptz;
ALTER TABLE sessions ADD COLUMN user_agent text NOT NULL DEFAULT '';
ALTER TABLE sessions ADD COLUMN client_address text;
-- Who ended it from the list of sessions: the user, or an administrator. Its end_reason is LOG_OUT then.
ALTER TABLE sessions ADD COLUMN ended_by uuid;

-- An account's open sessions are listed newest first.
CREATE INDEX sessions_newest ON sessions (user_id, create_time DESC, id DESC) WHERE end_time IS NULL;
DROP INDEX sessions_open;
