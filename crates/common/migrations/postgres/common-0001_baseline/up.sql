-- The service's background jobs: who runs each, whether somebody asked for a run, and how the last ones went. A row
-- is made by the first instance that knows the job.
CREATE TABLE jobs (
    name text COLLATE "C" PRIMARY KEY,
    -- The instance that runs it, and until when, by this database's clock. Nobody holds what runs in every instance.
    holder text,
    lease_until timestamptz,
    -- When somebody asked for a run that has not ended yet.
    triggered_at timestamptz,
    -- When the last run began, and when a run last ended well.
    last_run_at timestamptz,
    last_success_at timestamptz,
    last_duration_ms bigint CHECK (last_duration_ms >= 0),
    -- Why the last run failed; NULL where it did not.
    last_error text,
    -- So far: runs, those of them that failed, and what they did.
    runs bigint NOT NULL DEFAULT 0,
    failures bigint NOT NULL DEFAULT 0,
    items bigint NOT NULL DEFAULT 0,
    CONSTRAINT jobs_lease_whole CHECK ((holder IS NULL) = (lease_until IS NULL)),
    CONSTRAINT jobs_counts_sane CHECK (0 <= failures AND failures <= runs AND items >= 0)
);

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
