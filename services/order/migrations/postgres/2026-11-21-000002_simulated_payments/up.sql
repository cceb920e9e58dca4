-- The simulated payment provider's own books. They stand for another company's database: souk's own tables are never
-- joined with them but by `souk verify`, which asks whether both sides agree.
CREATE TABLE simulated_payments (
    -- The key that souk gave: the order.
    key text COLLATE "C" PRIMARY KEY,
    reference text NOT NULL,
    -- What the token said is to happen.
    behaviour text NOT NULL,
    state text NOT NULL
        CHECK (state IN ('NEW', 'AUTHORIZED', 'CAPTURED', 'VOIDED', 'DECLINED')),
    currency text NOT NULL,
    amount_minor bigint NOT NULL CHECK (amount_minor >= 0),
    refunded_minor bigint NOT NULL,
    -- Why it was declined.
    message text NOT NULL,
    -- Until when an authorisation can be captured.
    expires_at timestamptz NOT NULL,
    authorize_calls integer NOT NULL,
    capture_calls integer NOT NULL,
    CONSTRAINT simulated_payments_refund CHECK (
        0 <= refunded_minor AND refunded_minor <= amount_minor
        AND (refunded_minor = 0 OR state = 'CAPTURED')
    )
);

CREATE TABLE simulated_refunds (
    -- The key that souk gave: the return, or the order's cancellation.
    key text COLLATE "C" PRIMARY KEY,
    payment text COLLATE "C" NOT NULL REFERENCES simulated_payments (key),
    amount_minor bigint NOT NULL CHECK (amount_minor > 0)
);
CREATE INDEX simulated_refunds_by_payment ON simulated_refunds (payment);
