-- What the session's tokens are limited to (RFC 8693): names with spaces between them. Null: to nothing.
ALTER TABLE sessions ADD COLUMN scope TEXT CHECK (scope <> '');
