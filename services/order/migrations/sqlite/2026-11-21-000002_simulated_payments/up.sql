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
