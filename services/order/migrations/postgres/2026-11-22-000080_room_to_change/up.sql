-- Rows that change soon after they are written leave room for that on their page. A change of what no index has then needs
-- no new entry in any of them.
ALTER TABLE orders SET (fillfactor = 60);
ALTER TABLE idempotency_keys SET (fillfactor = 70);
ALTER TABLE simulated_payments SET (fillfactor = 70);
