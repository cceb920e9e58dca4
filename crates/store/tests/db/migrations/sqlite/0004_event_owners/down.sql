DROP TABLE event_epoch;
DROP INDEX events_of_owner;
ALTER TABLE events DROP COLUMN owner_id;
