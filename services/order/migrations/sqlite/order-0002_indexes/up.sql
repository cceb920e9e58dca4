-- Lists of orders in a state, and of sagas that have not ended, which are orders that are PENDING or CANCELLING. Almost
-- all orders are CONFIRMED: those are found by the order of the list.
CREATE INDEX orders_not_confirmed ON orders (state, created_at, id) WHERE state <> 'CONFIRMED';
CREATE INDEX returns_unfinished ON returns (created_at, id) WHERE state = 'RETURNING';
CREATE INDEX webhook_deliveries_failed ON webhook_deliveries (endpoint_id, id) WHERE state = 'FAILED';

-- Old rows are found by ids instead, which begin with a time: the order's id of an idempotency record, and the
-- delivery's own id.
DROP INDEX idempotency_keys_by_age;
DROP INDEX webhook_deliveries_by_age;
