-- Where events are posted.
CREATE TABLE webhook_endpoints (
    id uuid PRIMARY KEY,
    url text NOT NULL,
    description text NOT NULL,
    -- A list of the types it is for; empty: all.
    event_types jsonb NOT NULL,
    -- whsec_…, as the receiver has it: events are signed with it.
    secret text NOT NULL,
    -- The one before, with which events are signed as well until a time.
    previous_secret text,
    previous_secret_until timestamptz,
    disabled_at timestamptz,
    disable_reason text CHECK (disable_reason IN ('ADMINISTRATOR', 'GONE', 'FAILING')),
    -- Since when every try has failed.
    failing_since timestamptz,
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL,
    version bigint NOT NULL,
    CONSTRAINT webhook_endpoints_disabled_with_reason CHECK ((disabled_at IS NULL) = (disable_reason IS NULL))
);

-- An event on its way to an endpoint, and the log of that.
CREATE TABLE webhook_deliveries (
    id uuid PRIMARY KEY,
    endpoint_id uuid NOT NULL REFERENCES webhook_endpoints (id) ON DELETE CASCADE,
    event_id uuid NOT NULL,
    kind text COLLATE "C" NOT NULL,
    subject text COLLATE "C" NOT NULL,
    -- The event's place in the log. Of one subject, one goes after the other.
    position bigint NOT NULL,
    -- What is posted, to the letter.
    body text NOT NULL,
    state text NOT NULL CHECK (state IN ('PENDING', 'DELIVERED', 'FAILED')),
    -- Tries so far; of them since it was last asked for; the last of them.
    attempt_count integer NOT NULL,
    tries integer NOT NULL,
    attempts jsonb NOT NULL,
    last_code integer NOT NULL,
    -- Whoever tries it knows this number. From due_at on anyone else may.
    lease bigint,
    due_at timestamptz,
    created_at timestamptz NOT NULL,
    settled_at timestamptz,
    UNIQUE (endpoint_id, event_id),
    CONSTRAINT webhook_deliveries_never_stuck CHECK (
        (state = 'PENDING') = (due_at IS NOT NULL) AND (state = 'PENDING') = (settled_at IS NULL)
    )
);
CREATE INDEX webhook_deliveries_due ON webhook_deliveries (endpoint_id, due_at) WHERE due_at IS NOT NULL;
CREATE INDEX webhook_deliveries_in_order ON webhook_deliveries (endpoint_id, subject, position) WHERE due_at IS NOT NULL;
CREATE INDEX webhook_deliveries_log ON webhook_deliveries (endpoint_id, id);
CREATE INDEX webhook_deliveries_by_age ON webhook_deliveries (created_at);
