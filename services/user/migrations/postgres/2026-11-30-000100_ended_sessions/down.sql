DROP INDEX refresh_tokens_salted;
ALTER TABLE refresh_tokens DROP COLUMN successor_salt;
DROP INDEX sessions_end;
CREATE INDEX sessions_end ON sessions (end_time) WHERE end_time IS NOT NULL;
UPDATE sessions SET end_reason = 'ACCOUNT_DISABLED' WHERE end_reason = 'ROLES_CHANGED';
ALTER TABLE sessions DROP CONSTRAINT sessions_end_reason_check;
ALTER TABLE sessions ADD CONSTRAINT sessions_end_reason_check
    CHECK (end_reason IN ('LOG_OUT', 'PASSWORD_CHANGED', 'ACCOUNT_DISABLED', 'TOKEN_REUSED'));
