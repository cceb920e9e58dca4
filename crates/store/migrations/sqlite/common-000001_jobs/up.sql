-- The service's background jobs: who runs each, whether somebody asked for a run, and how the last ones went. A row
-- is made by the first copy that knows the job.
CREATE TABLE jobs (
    name TEXT PRIMARY KEY,
    -- The copy that runs it, and until when, by this database's clock. Nobody holds what runs in every copy.
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
