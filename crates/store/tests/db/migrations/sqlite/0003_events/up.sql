-- What happened, written in the transactions that made it so. souk_common::events says how it is read.
CREATE TABLE events (
    -- The place in the log. One transaction writes at a time, so there is no gap.
    position INTEGER PRIMARY KEY AUTOINCREMENT,
    id BLOB NOT NULL,
    kind TEXT NOT NULL,
    subject TEXT NOT NULL,
    data_type TEXT NOT NULL,
    data BLOB NOT NULL,
    created_at TEXT NOT NULL
);

-- Up to where each reader has read the log of a service.
CREATE TABLE event_readers (
    reader TEXT NOT NULL,
    source TEXT NOT NULL,
    position INTEGER NOT NULL,
    PRIMARY KEY (reader, source)
);
