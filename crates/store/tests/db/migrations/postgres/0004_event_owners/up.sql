-- Whose an event is: that user's streams read these alone, by the index. It is written with the position, after the
-- commit, so what a request waits for is a column more and no index.
ALTER TABLE events ADD COLUMN owner_id uuid;
CREATE INDEX events_of_owner ON events (owner_id, position) WHERE owner_id IS NOT NULL AND position IS NOT NULL;

-- Drawn once: cursors are encrypted with a key that is made of it, so those of another database are noticed. A secret.
-- One row.
CREATE TABLE event_epoch (
    single boolean PRIMARY KEY DEFAULT true CHECK (single),
    epoch bytea NOT NULL
);
INSERT INTO event_epoch (epoch)
VALUES (decode(replace(gen_random_uuid()::text || gen_random_uuid()::text, '-', ''), 'hex'));
