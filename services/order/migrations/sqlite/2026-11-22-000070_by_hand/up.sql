-- Money that operators settled by other means than souk's. A copy of the version before goes on meanwhile: to it, none is.

-- Whether an operator says that the payment was taken or given up, and not the provider.
ALTER TABLE orders ADD COLUMN payment_by_hand INTEGER NOT NULL DEFAULT 0;
-- Of what was given back, what operators gave back.
ALTER TABLE orders ADD COLUMN refunded_by_hand_minor INTEGER NOT NULL DEFAULT 0
    CONSTRAINT orders_by_hand_within_refunded
    CHECK (0 <= refunded_by_hand_minor AND refunded_by_hand_minor <= refunded_minor);
-- Whether an operator gave back the money of this one.
ALTER TABLE returns ADD COLUMN by_hand INTEGER NOT NULL DEFAULT 0;
