-- Orders of ten thousand customers, one line each, paid outside of souk, of a product whose stock is not counted: such an
-- order needs no reservation. Older than all that is there; without idempotency keys and events. Almost all of them are
-- confirmed: one in 500 is rejected, one in 500 cancelled, and the next try of one in 5,000 is due tomorrow. One in 100
-- has an external id.
SET session_replication_role = replica; -- No look at foreign keys: they are right.
CREATE TEMP TABLE made AS
SELECT
    g AS number,
    t AS created_at,
    CASE WHEN g % 500 = 1 THEN 'REJECTED' WHEN g % 500 = 2 THEN 'CANCELLED' WHEN g % 5000 = 3 THEN 'PENDING' ELSE 'CONFIRMED' END AS state,
    (lpad(to_hex((extract(epoch FROM t) * 1000)::bigint), 12, '0') || '7' || substr(md5(g::text), 1, 3)
        || '8' || substr(md5(g::text), 4, 15))::uuid AS id
FROM generate_series(1, :count) AS g,
    LATERAL (SELECT now() - interval '1 day' - g * interval '100 milliseconds' AS t) AS at;

INSERT INTO orders (id, customer_id, state, step, due_at, attempts, currency, total_minor, refunded_minor, shipping_address,
    external_id, rejection, payment_provider, payment_reference, payment_state, placed_at, created_at, updated_at, version,
    entries, pending_returns)
SELECT made.id, md5((number % 10000)::text)::uuid, state, CASE state WHEN 'PENDING' THEN 'RESERVE' END,
    CASE state WHEN 'PENDING' THEN now() + interval '1 day' END, CASE state WHEN 'PENDING' THEN 3 ELSE 0 END, 'EUR', 1999,
    CASE state WHEN 'CANCELLED' THEN 1999 ELSE 0 END, one.shipping_address,
    CASE WHEN number % 100 = 0 THEN 'EXT-' || number END,
    CASE state WHEN 'REJECTED' THEN '{"reason": "PAYMENT_DECLINED", "message": "declined", "items": []}'::jsonb END,
    CASE state WHEN 'PENDING' THEN NULL ELSE 'bench' END, CASE state WHEN 'PENDING' THEN NULL ELSE 'bench-' || number END,
    CASE state WHEN 'CONFIRMED' THEN 'CAPTURED' WHEN 'REJECTED' THEN 'DECLINED' WHEN 'CANCELLED' THEN 'REFUNDED' END,
    made.created_at, made.created_at, made.created_at, 1,
    CASE state WHEN 'PENDING' THEN 1 WHEN 'CANCELLED' THEN 3 ELSE 2 END, 0
FROM made, (SELECT shipping_address FROM orders LIMIT 1) AS one;

INSERT INTO order_lines (order_id, number, product_id, sku, title, quantity, unit_price_minor, total_minor, returned, cancelled,
    tracked)
SELECT made.id, 1, one.product_id, one.sku, one.title, 1, 1999, 1999, 0, CASE state WHEN 'CANCELLED' THEN 1 ELSE 0 END, false
FROM made, (SELECT product_id, sku, title FROM order_lines LIMIT 1) AS one;

INSERT INTO timeline_entries (order_id, number, kind, actor, detail, created_at)
SELECT id, 1, 'PLACED', 'services/bench', '', created_at FROM made
UNION ALL
SELECT id, 2, CASE state WHEN 'REJECTED' THEN 'REJECTED' ELSE 'CONFIRMED' END, 'services/bench', '', created_at
FROM made WHERE state <> 'PENDING'
UNION ALL
SELECT id, 3, 'CANCELLED', 'services/bench', '', created_at FROM made WHERE state = 'CANCELLED';
