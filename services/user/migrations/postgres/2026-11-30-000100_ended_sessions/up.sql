-- A change of roles ends sessions, too.
ALTER TABLE sessions DROP CONSTRAINT sessions_end_reason_check;
ALTER TABLE sessions ADD CONSTRAINT sessions_end_reason_check CHECK (end_reason IN
    ('LOG_OUT', 'PASSWORD_CHANGED', 'ROLES_CHANGED', 'ACCOUNT_DISABLED', 'TOKEN_REUSED'));

-- Those that ended last are asked for all the time, in this order.
DROP INDEX sessions_end;
CREATE INDEX sessions_end ON sessions (end_time, id) WHERE end_time IS NOT NULL;

-- With it and the token's text, which is stored nowhere, the token that it was exchanged for is made again: for a client
-- whose answer was lost. Null once nobody may ask for that any more.
ALTER TABLE refresh_tokens ADD COLUMN successor_salt bytea;
CREATE INDEX refresh_tokens_salted ON refresh_tokens (use_time) WHERE successor_salt IS NOT NULL;
