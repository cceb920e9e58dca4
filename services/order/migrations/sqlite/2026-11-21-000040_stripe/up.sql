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
