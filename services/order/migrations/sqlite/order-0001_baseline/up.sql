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
    external_id TEXT,
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
    -- What adjustments under way will give back.
    refunding_minor INTEGER NOT NULL DEFAULT 0,
    -- Whether an operator says that the payment was captured or given up, and not the provider.
    payment_settled_manually INTEGER NOT NULL DEFAULT 0,
    -- What operators gave back by other means than souk's: a part of refunded_minor.
    refunded_manually_minor INTEGER NOT NULL DEFAULT 0,
    CONSTRAINT orders_refund_within_total CHECK (0 <= refunded_minor AND refunded_minor <= total_minor),
    CONSTRAINT orders_refunding_within_total
        CHECK (refunding_minor >= 0 AND refunded_minor + refunding_minor <= total_minor),
    CONSTRAINT orders_refunded_manually_within_refunded
        CHECK (0 <= refunded_manually_minor AND refunded_manually_minor <= refunded_minor),
    -- An order is final, or it has a next step and a time from which anyone may take it up.
    CONSTRAINT orders_never_stuck CHECK (
        (state IN ('PENDING', 'CANCELLING')) = (step IS NOT NULL)
        AND (step IS NOT NULL) = (due_at IS NOT NULL)
    ),
    CONSTRAINT orders_rejected_with_reason CHECK (state <> 'REJECTED' OR rejection IS NOT NULL)
) STRICT, WITHOUT ROWID;
-- Few orders have an external id, so the others have no entry.
CREATE UNIQUE INDEX orders_external_id_key ON orders (external_id) WHERE external_id IS NOT NULL;
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
    -- Pieces that shipments name, those of them that came back, and those cancelled before they were shipped.
    shipped INTEGER NOT NULL DEFAULT 0,
    returned_shipped INTEGER NOT NULL DEFAULT 0,
    cancelled INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (order_id, number),
    CONSTRAINT order_lines_total CHECK (total_minor = quantity * unit_price_minor),
    CONSTRAINT order_lines_never_more_back_than_bought CHECK (0 <= returned AND returned <= quantity),
    CONSTRAINT order_lines_pieces CHECK (
        cancelled >= 0 AND shipped >= 0 AND returned_shipped >= 0
        AND returned_shipped <= shipped AND returned_shipped <= returned
        AND shipped + cancelled + returned - returned_shipped <= quantity
    )
) STRICT, WITHOUT ROWID;

-- Everything that happened to an order. Only ever added to.
CREATE TABLE timeline_entries (
    order_id BLOB NOT NULL REFERENCES orders (id),
    number INTEGER NOT NULL CHECK (number >= 1),
    kind TEXT NOT NULL,
    actor TEXT NOT NULL,
    detail TEXT NOT NULL,
    created_at TEXT NOT NULL,
    -- Whether it is for staff alone.
    internal INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (order_id, number)
) STRICT, WITHOUT ROWID;

-- A return, a cancellation of pieces or a refund without goods: all that is given back of an order that stays
-- confirmed. The state RETURNING means that it is under way, whichever it is.
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
    cause TEXT NOT NULL DEFAULT 'RETURN' CHECK (cause IN ('RETURN', 'CANCELLATION', 'REFUND')),
    -- Whether an operator gave back the money by other means than souk's.
    settled_manually INTEGER NOT NULL DEFAULT 0,
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

CREATE TABLE shipments (
    id BLOB PRIMARY KEY,
    order_id BLOB NOT NULL REFERENCES orders (id),
    carrier TEXT NOT NULL,
    tracking_number TEXT NOT NULL,
    tracking_url TEXT NOT NULL,
    shipped_at TEXT NOT NULL,
    created_at TEXT NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX shipments_by_order ON shipments (order_id, id);

CREATE TABLE shipment_lines (
    shipment_id BLOB NOT NULL REFERENCES shipments (id),
    line_number INTEGER NOT NULL,
    quantity INTEGER NOT NULL CHECK (quantity > 0),
    PRIMARY KEY (shipment_id, line_number)
) STRICT, WITHOUT ROWID;

-- What callers asked with a key of their own, and what they were answered. A row appears in the transaction that
-- records the order or return, and gets its response in the one that makes it final. It has no foreign key to them, for
-- it is written first: that decides which of several equal requests goes on.
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

-- The simulated payment provider's own books. They stand for another company's database: souk's own tables are never
-- joined with them but by `souk verify`, which asks whether both sides agree.
CREATE TABLE simulated_payments (
    -- The key that souk gave: the order.
    key TEXT PRIMARY KEY,
    reference TEXT NOT NULL,
    -- What the token said is to happen.
    behaviour TEXT NOT NULL,
    state TEXT NOT NULL
        CHECK (state IN ('NEW', 'AUTHORIZED', 'CAPTURED', 'VOIDED', 'DECLINED')),
    currency TEXT NOT NULL,
    amount_minor INTEGER NOT NULL CHECK (amount_minor >= 0),
    refunded_minor INTEGER NOT NULL,
    -- Why it was declined.
    message TEXT NOT NULL,
    -- Until when an authorisation can be captured.
    expires_at TEXT NOT NULL,
    authorize_calls INTEGER NOT NULL,
    capture_calls INTEGER NOT NULL,
    CONSTRAINT simulated_payments_refund CHECK (
        0 <= refunded_minor AND refunded_minor <= amount_minor
        AND (refunded_minor = 0 OR state = 'CAPTURED')
    )
) STRICT, WITHOUT ROWID;

CREATE TABLE simulated_refunds (
    -- The key that souk gave: the return, or the order's cancellation.
    key TEXT PRIMARY KEY,
    payment TEXT NOT NULL REFERENCES simulated_payments (key),
    amount_minor INTEGER NOT NULL CHECK (amount_minor > 0)
) STRICT, WITHOUT ROWID;
CREATE INDEX simulated_refunds_by_payment ON simulated_refunds (payment);

-- Which of Stripe's intents stands for which order. Written before money is held by the intent, and never changed: of
-- several that were made for one order, only the one that stands here is ever confirmed.
CREATE TABLE stripe_payments (
    -- The key of the payment: the order.
    key TEXT PRIMARY KEY,
    -- Stripe's id; none where nothing was ever held and nothing will be.
    intent TEXT UNIQUE,
    -- Where there is no intent: why not, or nothing for an order that costs nothing.
    message TEXT NOT NULL CHECK (intent IS NULL OR message = ''),
    created_at TEXT NOT NULL
) STRICT, WITHOUT ROWID;

-- Webhooks of payment providers that were taken in, by the provider's id of the event.
CREATE TABLE payment_notices (
    id TEXT PRIMARY KEY,
    received_at TEXT NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX payment_notices_by_age ON payment_notices (received_at);

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
