DROP TABLE event_readers;
DROP TABLE events;
