-- What was bought, how far it has come, how it is paid, and who is at it. All money of an order is in its currency,
-- in minor units.
CREATE TABLE orders (
    id uuid PRIMARY KEY,
    customer_id uuid NOT NULL,
    state text NOT NULL
        CHECK (state IN ('PENDING', 'CONFIRMED', 'REJECTED', 'CANCELLING', 'CANCELLED')),
    -- What the saga does next: set while it runs.
    step text
        CHECK (step IN ('RESERVE', 'AUTHORIZE', 'COMMIT', 'CAPTURE', 'RELEASE', 'VOID', 'RESTOCK', 'REFUND')),
    currency text NOT NULL,
    total_minor bigint NOT NULL CHECK (total_minor >= 0),
    -- What was given back.
    refunded_minor bigint NOT NULL,
    shipping_address jsonb NOT NULL,
    external_id text COLLATE "C" UNIQUE,
    -- Why it could not be placed.
    rejection jsonb,
    payment_provider text,
    payment_reference text,
    payment_state text
        CHECK (payment_state IN ('AUTHORIZED', 'CAPTURED', 'VOIDED', 'DECLINED', 'REFUNDED')),
    -- Kept until the provider has answered.
    payment_token text,
    placed_at timestamptz NOT NULL,
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL,
    version bigint NOT NULL,
    -- Entries of the timeline so far, and returns that are under way.
    entries integer NOT NULL,
    pending_returns integer NOT NULL CHECK (pending_returns >= 0),
    -- Whoever runs the saga knows this number. From due_at on anyone else may take it over.
    lease bigint,
    due_at timestamptz,
    attempts integer NOT NULL,
    last_error text,
    CONSTRAINT orders_refund_within_total CHECK (0 <= refunded_minor AND refunded_minor <= total_minor),
    -- An order is final, or it has a next step and a time from which anyone may take it up.
    CONSTRAINT orders_never_stuck CHECK (
        (state IN ('PENDING', 'CANCELLING')) = (step IS NOT NULL)
        AND (step IS NOT NULL) = (due_at IS NOT NULL)
    ),
    CONSTRAINT orders_rejected_with_reason CHECK (state <> 'REJECTED' OR rejection IS NOT NULL)
);
CREATE INDEX orders_by_creation ON orders (created_at, id);
CREATE INDEX orders_by_customer ON orders (customer_id, created_at, id);
CREATE INDEX orders_due ON orders (due_at) WHERE due_at IS NOT NULL;

CREATE TABLE order_lines (
    order_id uuid NOT NULL REFERENCES orders (id),
    number integer NOT NULL CHECK (number >= 1),
    product_id uuid NOT NULL,
    sku text NOT NULL,
    title text NOT NULL,
    quantity bigint NOT NULL CHECK (quantity > 0),
    unit_price_minor bigint NOT NULL CHECK (unit_price_minor >= 0),
    total_minor bigint NOT NULL,
    -- Pieces that came back or are on their way back.
    returned bigint NOT NULL,
    -- Whether inventory counts the product's stock.
    tracked boolean NOT NULL,
    PRIMARY KEY (order_id, number),
    CONSTRAINT order_lines_total CHECK (total_minor = quantity * unit_price_minor),
    CONSTRAINT order_lines_never_more_back_than_bought CHECK (0 <= returned AND returned <= quantity)
);

-- Everything that happened to an order. Only ever added to.
CREATE TABLE timeline_entries (
    order_id uuid NOT NULL REFERENCES orders (id),
    number integer NOT NULL CHECK (number >= 1),
    kind text NOT NULL,
    actor text NOT NULL,
    detail text NOT NULL,
    created_at timestamptz NOT NULL,
    PRIMARY KEY (order_id, number)
);

-- Goods that came back.
CREATE TABLE returns (
    id uuid PRIMARY KEY,
    order_id uuid NOT NULL REFERENCES orders (id),
    state text NOT NULL CHECK (state IN ('RETURNING', 'COMPLETED')),
    step text CHECK (step IN ('RESTOCK', 'REFUND')),
    refund_minor bigint NOT NULL CHECK (refund_minor >= 0),
    reason text NOT NULL,
    returned_at timestamptz NOT NULL,
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL,
    lease bigint,
    due_at timestamptz,
    attempts integer NOT NULL,
    last_error text,
    CONSTRAINT returns_never_stuck CHECK (
        (state = 'RETURNING') = (step IS NOT NULL) AND (step IS NOT NULL) = (due_at IS NOT NULL)
    )
);
CREATE INDEX returns_by_order ON returns (order_id, id);
CREATE INDEX returns_due ON returns (due_at) WHERE due_at IS NOT NULL;

CREATE TABLE return_lines (
    return_id uuid NOT NULL REFERENCES returns (id),
    line_number integer NOT NULL,
    quantity bigint NOT NULL CHECK (quantity > 0),
    PRIMARY KEY (return_id, line_number)
);

-- What callers asked with a key of their own, and what they were answered. A row appears in the transaction that
-- takes the order or return down and gets its response in the one that makes it final. It names them without a
-- foreign key, for it is written first: that decides which of several equal requests goes on.
CREATE TABLE idempotency_keys (
    caller text COLLATE "C" NOT NULL,
    method text COLLATE "C" NOT NULL,
    key text COLLATE "C" NOT NULL,
    -- SHA-256 of the request.
    request_hash bytea NOT NULL,
    order_id uuid NOT NULL,
    return_id uuid,
    response bytea,
    created_at timestamptz NOT NULL,
    PRIMARY KEY (caller, method, key)
);
CREATE INDEX idempotency_keys_by_order ON idempotency_keys (order_id);
CREATE INDEX idempotency_keys_by_age ON idempotency_keys (created_at);
