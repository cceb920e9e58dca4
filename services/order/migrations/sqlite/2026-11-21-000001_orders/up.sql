-- What was bought, how far it has come, how it is paid, and who is at it. All money of an order is in its currency,
-- in minor units.
CREATE TABLE orders (
    id BLOB PRIMARY KEY,
    customer_id BLOB NOT NULL,
    state TEXT NOT NULL
        CHECK (state IN ('PENDING', 'CONFIRMED', 'REJECTED', 'CANCELLING', 'CANCELLED')),
    -- What the saga does next: set while it runs.
    step TEXT
        CHECK (step IN ('RESERVE', 'AUTHORIZE', 'COMMIT', 'CAPTURE', 'RELEASE', 'VOID', 'RESTOCK', 'REFUND')),
    currency TEXT NOT NULL,
    total_minor INTEGER NOT NULL CHECK (total_minor >= 0),
    -- What was given back.
    refunded_minor INTEGER NOT NULL,
    shipping_address TEXT NOT NULL,
    external_id TEXT UNIQUE,
    -- Why it could not be placed.
    rejection TEXT,
    payment_provider TEXT,
    payment_reference TEXT,
    payment_state TEXT
        CHECK (payment_state IN ('AUTHORIZED', 'CAPTURED', 'VOIDED', 'DECLINED', 'REFUNDED')),
    -- Kept until the provider has answered.
    payment_token TEXT,
    placed_at TEXT NOT NULL,
    created_at TEXT NOT NULL,
    updated_at TEXT NOT NULL,
    version INTEGER NOT NULL,
    -- Entries of the timeline so far, and returns that are under way.
    entries INTEGER NOT NULL,
    pending_returns INTEGER NOT NULL CHECK (pending_returns >= 0),
    -- Whoever runs the saga knows this number. From due_at on anyone else may take it over.
    lease INTEGER,
    due_at TEXT,
    attempts INTEGER NOT NULL,
    last_error TEXT,
    CONSTRAINT orders_refund_within_total CHECK (0 <= refunded_minor AND refunded_minor <= total_minor),
    -- An order is final, or it has a next step and a time from which anyone may take it up.
    CONSTRAINT orders_never_stuck CHECK (
        (state IN ('PENDING', 'CANCELLING')) = (step IS NOT NULL)
        AND (step IS NOT NULL) = (due_at IS NOT NULL)
    ),
    CONSTRAINT orders_rejected_with_reason CHECK (state <> 'REJECTED' OR rejection IS NOT NULL)
) STRICT, WITHOUT ROWID;
CREATE INDEX orders_by_creation ON orders (created_at, id);
CREATE INDEX orders_by_customer ON orders (customer_id, created_at, id);
CREATE INDEX orders_due ON orders (due_at) WHERE due_at IS NOT NULL;

CREATE TABLE order_lines (
    order_id BLOB NOT NULL REFERENCES orders (id),
    number INTEGER NOT NULL CHECK (number >= 1),
    product_id BLOB NOT NULL,
    sku TEXT NOT NULL,
    title TEXT NOT NULL,
    quantity INTEGER NOT NULL CHECK (quantity > 0),
    unit_price_minor INTEGER NOT NULL CHECK (unit_price_minor >= 0),
    total_minor INTEGER NOT NULL,
    -- Pieces that came back or are on their way back.
    returned INTEGER NOT NULL,
    -- Whether inventory counts the product's stock.
    tracked INTEGER NOT NULL,
    PRIMARY KEY (order_id, number),
    CONSTRAINT order_lines_total CHECK (total_minor = quantity * unit_price_minor),
    CONSTRAINT order_lines_never_more_back_than_bought CHECK (0 <= returned AND returned <= quantity)
) STRICT, WITHOUT ROWID;

-- Everything that happened to an order. Only ever added to.
CREATE TABLE timeline_entries (
    order_id BLOB NOT NULL REFERENCES orders (id),
    number INTEGER NOT NULL CHECK (number >= 1),
    kind TEXT NOT NULL,
    actor TEXT NOT NULL,
    detail TEXT NOT NULL,
    created_at TEXT NOT NULL,
    PRIMARY KEY (order_id, number)
) STRICT, WITHOUT ROWID;

-- Goods that came back.
CREATE TABLE returns (
    id BLOB PRIMARY KEY,
    order_id BLOB NOT NULL REFERENCES orders (id),
    state TEXT NOT NULL CHECK (state IN ('RETURNING', 'COMPLETED')),
    step TEXT CHECK (step IN ('RESTOCK', 'REFUND')),
    refund_minor INTEGER NOT NULL CHECK (refund_minor >= 0),
    reason TEXT NOT NULL,
    returned_at TEXT NOT NULL,
    created_at TEXT NOT NULL,
    updated_at TEXT NOT NULL,
    lease INTEGER,
    due_at TEXT,
    attempts INTEGER NOT NULL,
    last_error TEXT,
    CONSTRAINT returns_never_stuck CHECK (
        (state = 'RETURNING') = (step IS NOT NULL) AND (step IS NOT NULL) = (due_at IS NOT NULL)
    )
) STRICT, WITHOUT ROWID;
CREATE INDEX returns_by_order ON returns (order_id, id);
CREATE INDEX returns_due ON returns (due_at) WHERE due_at IS NOT NULL;

CREATE TABLE return_lines (
    return_id BLOB NOT NULL REFERENCES returns (id),
    line_number INTEGER NOT NULL,
    quantity INTEGER NOT NULL CHECK (quantity > 0),
    PRIMARY KEY (return_id, line_number)
) STRICT, WITHOUT ROWID;

-- What callers asked with a key of their own, and what they were answered. A row appears in the transaction that
-- takes the order or return down and gets its response in the one that makes it final. It names them without a
-- foreign key, for it is written first: that decides which of several equal requests goes on.
CREATE TABLE idempotency_keys (
    caller TEXT NOT NULL,
    method TEXT NOT NULL,
    key TEXT NOT NULL,
    -- SHA-256 of the request.
    request_hash BLOB NOT NULL,
    order_id BLOB NOT NULL,
    return_id BLOB,
    response BLOB,
    created_at TEXT NOT NULL,
    PRIMARY KEY (caller, method, key)
) STRICT, WITHOUT ROWID;
CREATE INDEX idempotency_keys_by_order ON idempotency_keys (order_id);
CREATE INDEX idempotency_keys_by_age ON idempotency_keys (created_at);
