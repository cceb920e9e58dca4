ALTER TABLE simulated_payments RESET (fillfactor);
ALTER TABLE idempotency_keys RESET (fillfactor);
ALTER TABLE orders RESET (fillfactor);
