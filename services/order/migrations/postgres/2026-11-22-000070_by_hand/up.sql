-- Money that operators settled by other means than souk's. A copy of the version before goes on meanwhile: to it, none is.

-- Whether an operator says that the payment was taken or given up, and not the provider.
ALTER TABLE orders ADD COLUMN payment_by_hand boolean NOT NULL DEFAULT false;
-- Of what was given back, what operators gave back.
ALTER TABLE orders ADD COLUMN refunded_by_hand_minor bigint NOT NULL DEFAULT 0;
-- It holds of what is there, by the default: to read all orders for that would keep everyone waiting.
ALTER TABLE orders ADD CONSTRAINT orders_by_hand_within_refunded
    CHECK (0 <= refunded_by_hand_minor AND refunded_by_hand_minor <= refunded_minor) NOT VALID;
-- Whether an operator gave back the money of this one.
ALTER TABLE returns ADD COLUMN by_hand boolean NOT NULL DEFAULT false;
