DROP TABLE payment_notices;
DROP TABLE stripe_payments;
