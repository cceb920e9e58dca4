-- The same orders as those of PostgreSQL's script.
CREATE TEMP TABLE made AS
WITH RECURSIVE numbers (number) AS (
    SELECT 1 UNION ALL SELECT number + 1 FROM numbers WHERE number < :count
), times AS (
    SELECT number, CAST(unixepoch('subsec') * 1000 AS INTEGER) - 86400000 - number * 100 AS ms FROM numbers
)
SELECT
    number,
    strftime('%Y-%m-%d %H:%M:%f+00:00', ms / 1000.0, 'unixepoch') AS created_at,
    CASE WHEN number % 500 = 1 THEN 'REJECTED' WHEN number % 500 = 2 THEN 'CANCELLED' WHEN number % 5000 = 3 THEN 'PENDING' ELSE 'CONFIRMED' END AS state,
    unhex(printf('%012x', ms) || '7' || substr(hex(randomblob(2)), 1, 3) || '8' || substr(hex(randomblob(8)), 1, 15)) AS id
FROM times;

INSERT INTO orders (id, customer_id, state, step, due_at, attempts, currency, total_minor, refunded_minor, shipping_address,
    external_id, rejection, payment_provider, payment_reference, payment_state, placed_at, created_at, updated_at, version,
    entries, pending_returns)
SELECT made.id, unhex(printf('%032x', number % 10000)), state, CASE state WHEN 'PENDING' THEN 'RESERVE' END,
    CASE state WHEN 'PENDING' THEN strftime('%Y-%m-%d %H:%M:%f+00:00', 'now', '+1 day') END,
    CASE state WHEN 'PENDING' THEN 3 ELSE 0 END, 'EUR', 1999,
    CASE state WHEN 'CANCELLED' THEN 1999 ELSE 0 END, one.shipping_address,
    CASE WHEN number % 100 = 0 THEN 'EXT-' || number END,
    CASE state WHEN 'REJECTED' THEN '{"reason": "PAYMENT_DECLINED", "message": "declined", "items": []}' END,
    CASE state WHEN 'PENDING' THEN NULL ELSE 'bench' END, CASE state WHEN 'PENDING' THEN NULL ELSE 'bench-' || number END,
    CASE state WHEN 'CONFIRMED' THEN 'CAPTURED' WHEN 'REJECTED' THEN 'DECLINED' WHEN 'CANCELLED' THEN 'REFUNDED' END,
    made.created_at, made.created_at, made.created_at, 1,
    CASE state WHEN 'PENDING' THEN 1 WHEN 'CANCELLED' THEN 3 ELSE 2 END, 0
FROM made, (SELECT shipping_address FROM orders LIMIT 1) AS one ORDER BY made.id;

INSERT INTO order_lines (order_id, number, product_id, sku, title, quantity, unit_price_minor, total_minor, returned, cancelled,
    tracked)
SELECT made.id, 1, one.product_id, one.sku, one.title, 1, 1999, 1999, 0, CASE state WHEN 'CANCELLED' THEN 1 ELSE 0 END, 0
FROM made, (SELECT product_id, sku, title FROM order_lines LIMIT 1) AS one ORDER BY made.id;

INSERT INTO timeline_entries (order_id, number, kind, actor, detail, created_at)
SELECT id, 1, 'PLACED', 'services/bench', '', created_at FROM made
UNION ALL
SELECT id, 2, CASE state WHEN 'REJECTED' THEN 'REJECTED' ELSE 'CONFIRMED' END, 'services/bench', '', created_at
FROM made WHERE state <> 'PENDING'
UNION ALL
SELECT id, 3, 'CANCELLED', 'services/bench', '', created_at FROM made WHERE state = 'CANCELLED'
ORDER BY 1, 2;

DROP TABLE made;
