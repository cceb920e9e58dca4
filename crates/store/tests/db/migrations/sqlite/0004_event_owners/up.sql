-- Whose an event is: that user's streams read these alone, by the index, which ends with the position as each does.
ALTER TABLE events ADD COLUMN owner_id BLOB;
CREATE INDEX events_of_owner ON events (owner_id) WHERE owner_id IS NOT NULL;

-- Drawn once: cursors are encrypted with a key that is made of it, so those of another database are noticed. A secret.
-- One row.
CREATE TABLE event_epoch (
    single INTEGER PRIMARY KEY DEFAULT 1 CHECK (single = 1),
    epoch BLOB NOT NULL
);
INSERT INTO event_epoch (epoch) VALUES (randomblob(32));
