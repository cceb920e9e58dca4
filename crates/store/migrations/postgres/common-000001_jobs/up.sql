-- The service's background jobs: who runs each, whether somebody asked for a run, and how the last ones went. A row
-- is made by the first copy that knows the job.
CREATE TABLE jobs (
    name text COLLATE "C" PRIMARY KEY,
    -- The copy that runs it, and until when, by this database's clock. Nobody holds what runs in every copy.
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
