-- As many confirmed orders of ten thousand customers, one line each, paid outside of souk, of a product whose stock is not
-- counted: such an order needs no reservation. Older than all that is there; without idempotency keys and events.
SET session_replication_role = replica; -- No look at foreign keys: they are right.
CREATE TEMP TABLE made AS
SELECT
    g AS number,
    t AS created_at,
    (lpad(to_hex((extract(epoch FROM t) * 1000)::bigint), 12, '0') || '7' || substr(md5(g::text), 1, 3)
        || '8' || substr(md5(g::text), 4, 15))::uuid AS id
FROM generate_series(1, :count) AS g,
    LATERAL (SELECT now() - interval '1 day' - g * interval '100 milliseconds' AS t) AS at;

INSERT INTO orders (id, customer_id, state, currency, total_minor, refunded_minor, shipping_address, payment_provider,
    payment_reference, payment_state, placed_at, created_at, updated_at, version, entries, pending_returns, attempts)
SELECT made.id, md5((number % 10000)::text)::uuid, 'CONFIRMED', 'EUR', 1999, 0, one.shipping_address, 'bench',
    'bench-' || number, 'CAPTURED', made.created_at, made.created_at, made.created_at, 1, 2, 0, 0
FROM made, (SELECT shipping_address FROM orders LIMIT 1) AS one;

INSERT INTO order_lines (order_id, number, product_id, sku, title, quantity, unit_price_minor, total_minor, returned, tracked)
SELECT made.id, 1, one.product_id, one.sku, one.title, 1, 1999, 1999, 0, false
FROM made, (SELECT product_id, sku, title FROM order_lines LIMIT 1) AS one;

INSERT INTO timeline_entries (order_id, number, kind, actor, detail, created_at)
SELECT id, entry, kind, 'services/bench', '', created_at FROM made, (VALUES (1, 'PLACED'), (2, 'CONFIRMED')) AS entries (entry, kind);
