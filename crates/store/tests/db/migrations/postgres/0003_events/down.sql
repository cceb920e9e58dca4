DROP TABLE event_readers;
DROP TABLE event_head;
DROP TABLE events;
