-- Where events are posted.
CREATE TABLE webhook_endpoints (
    id BLOB PRIMARY KEY,
    url TEXT NOT NULL,
    description TEXT NOT NULL,
    -- A list of the types it is for; empty: all.
    event_types TEXT NOT NULL,
    -- whsec_…, as the receiver has it: events are signed with it.
    secret TEXT NOT NULL,
    -- The one before, with which events are signed as well until a time.
    previous_secret TEXT,
    previous_secret_until TEXT,
    disabled_at TEXT,
    disable_reason TEXT CHECK (disable_reason IN ('ADMINISTRATOR', 'GONE', 'FAILING')),
    -- Since when every try has failed.
    failing_since TEXT,
    created_at TEXT NOT NULL,
    updated_at TEXT NOT NULL,
    version INTEGER NOT NULL,
    CONSTRAINT webhook_endpoints_disabled_with_reason CHECK ((disabled_at IS NULL) = (disable_reason IS NULL))
) STRICT, WITHOUT ROWID;

-- An event on its way to an endpoint, and the log of that.
CREATE TABLE webhook_deliveries (
    id BLOB PRIMARY KEY,
    endpoint_id BLOB NOT NULL REFERENCES webhook_endpoints (id) ON DELETE CASCADE,
    event_id BLOB NOT NULL,
    kind TEXT NOT NULL,
    subject TEXT NOT NULL,
    -- The event's place in the log. Of one subject, one goes after the other.
    position INTEGER NOT NULL,
    -- What is posted, to the letter.
    body TEXT NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('PENDING', 'DELIVERED', 'FAILED')),
    -- Tries so far; of them since it was last asked for; the last of them.
    attempt_count INTEGER NOT NULL,
    tries INTEGER NOT NULL,
    attempts TEXT NOT NULL,
    last_code INTEGER NOT NULL,
    -- Whoever tries it knows this number. From due_at on anyone else may.
    lease INTEGER,
    due_at TEXT,
    created_at TEXT NOT NULL,
    settled_at TEXT,
    UNIQUE (endpoint_id, event_id),
    CONSTRAINT webhook_deliveries_never_stuck CHECK (
        (state = 'PENDING') = (due_at IS NOT NULL) AND (state = 'PENDING') = (settled_at IS NULL)
    )
) STRICT, WITHOUT ROWID;
CREATE INDEX webhook_deliveries_due ON webhook_deliveries (endpoint_id, due_at) WHERE due_at IS NOT NULL;
CREATE INDEX webhook_deliveries_in_order ON webhook_deliveries (endpoint_id, subject, position) WHERE due_at IS NOT NULL;
CREATE INDEX webhook_deliveries_log ON webhook_deliveries (endpoint_id, id);
CREATE INDEX webhook_deliveries_by_age ON webhook_deliveries (created_at);
