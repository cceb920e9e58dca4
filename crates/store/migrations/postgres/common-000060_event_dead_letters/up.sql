-- Events that a reader of a log could not act on, and those of the same subject that came after: they wait for an
-- operator, so that the reader can go on. Whole, since the log forgets.
CREATE TABLE event_dead_letters (
    reader text COLLATE "C" NOT NULL,
    source text COLLATE "C" NOT NULL,
    position bigint NOT NULL,
    id uuid NOT NULL,
    kind text NOT NULL,
    subject text COLLATE "C" NOT NULL,
    data_type text NOT NULL,
    data bytea NOT NULL,
    created_at timestamptz NOT NULL,
    -- How it was tried. 0 tries, and no error: it only follows another one.
    tries integer NOT NULL CHECK (tries >= 0),
    last_error text,
    first_tried_at timestamptz,
    last_tried_at timestamptz,
    set_aside_at timestamptz NOT NULL,
    -- When an operator asked to have it acted on after all; until it is, or fails again.
    requeued_at timestamptz,
    PRIMARY KEY (reader, source, position)
);
CREATE INDEX event_dead_letters_by_subject ON event_dead_letters (reader, source, subject, position);
