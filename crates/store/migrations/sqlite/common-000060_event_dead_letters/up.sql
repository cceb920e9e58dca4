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
