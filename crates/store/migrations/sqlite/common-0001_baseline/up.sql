-- The service's background jobs: who runs each, whether somebody asked for a run, and how the last ones went. A row
-- is made by the first instance that knows the job.
CREATE TABLE jobs (
    name TEXT PRIMARY KEY,
    -- The instance that runs it, and until when, by this database's clock. Nobody holds what runs in every instance.
    holder TEXT,
    lease_until TEXT,
    -- When somebody asked for a run that has not ended yet.
    triggered_at TEXT,
    -- When the last run began, and when a run last ended well.
    last_run_at TEXT,
    last_success_at TEXT,
    last_duration_ms INTEGER CHECK (last_duration_ms >= 0),
    -- Why the last run failed; NULL where it did not.
    last_error TEXT,
    -- So far: runs, those of them that failed, and what they did.
    runs INTEGER NOT NULL DEFAULT 0,
    failures INTEGER NOT NULL DEFAULT 0,
    items INTEGER NOT NULL DEFAULT 0,
    CONSTRAINT jobs_lease_whole CHECK ((holder IS NULL) = (lease_until IS NULL)),
    CONSTRAINT jobs_counts_sane CHECK (0 <= failures AND failures <= runs AND items >= 0)
) STRICT, WITHOUT ROWID;

-- What happened: each event is written in the transaction of the change that it tells of.
CREATE TABLE events (
    -- The place in the log. One transaction writes at a time, so there is no gap.
    position INTEGER PRIMARY KEY AUTOINCREMENT,
    id BLOB NOT NULL,
    kind TEXT NOT NULL,
    subject TEXT NOT NULL,
    data_type TEXT NOT NULL,
    data BLOB NOT NULL,
    created_at TEXT NOT NULL,
    -- Whose event it is: that user's streams read these alone, by the index, which ends with the position as each does.
    owner_id BLOB
);
CREATE INDEX events_of_owner ON events (owner_id) WHERE owner_id IS NOT NULL;

-- Up to where each reader has read the log of a service.
CREATE TABLE event_readers (
    reader TEXT NOT NULL,
    source TEXT NOT NULL,
    position INTEGER NOT NULL,
    PRIMARY KEY (reader, source)
);

-- Drawn once: cursors are encrypted with a key that is made of it, so those of another database are noticed. A secret.
-- One row.
CREATE TABLE event_epoch (
    single INTEGER PRIMARY KEY DEFAULT 1 CHECK (single = 1),
    epoch BLOB NOT NULL
);
INSERT INTO event_epoch (epoch) VALUES (randomblob(32));

-- Events that a reader of a log could not act on, and those of the same subject that came after: they wait for an
-- operator, so that the reader can go on. Whole, since the log forgets.
CREATE TABLE event_dead_letters (
    reader TEXT NOT NULL,
    source TEXT NOT NULL,
    position INTEGER NOT NULL,
    id BLOB NOT NULL,
    kind TEXT NOT NULL,
    subject TEXT NOT NULL,
    data_type TEXT NOT NULL,
    data BLOB NOT NULL,
    created_at TEXT NOT NULL,
    -- How it was tried. 0 tries, and no error: it only follows another one.
    tries INTEGER NOT NULL CHECK (tries >= 0),
    last_error TEXT,
    first_tried_at TEXT,
    last_tried_at TEXT,
    set_aside_at TEXT NOT NULL,
    -- When an operator asked to have it acted on after all; until it is, or fails again.
    requeued_at TEXT,
    PRIMARY KEY (reader, source, position)
) STRICT, WITHOUT ROWID;
CREATE INDEX event_dead_letters_by_subject ON event_dead_letters (reader, source, subject, position);
