ALTER TABLE returns DROP COLUMN by_hand;
ALTER TABLE orders DROP COLUMN refunded_by_hand_minor;
ALTER TABLE orders DROP COLUMN payment_by_hand;
