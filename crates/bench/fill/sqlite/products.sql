-- The same products as those of PostgreSQL's script.
CREATE TEMP TABLE made AS
WITH RECURSIVE numbers (number) AS (
    SELECT :first UNION ALL SELECT number + 1 FROM numbers WHERE number < :last
), times AS (
    SELECT number, CAST(unixepoch('subsec') * 1000 AS INTEGER) - 86400000 - number * 1000 AS ms FROM numbers
)
SELECT
    number,
    strftime('%Y-%m-%d %H:%M:%f+00:00', ms / 1000.0, 'unixepoch') AS created_at,
    unhex(printf('%012x', ms) || '7' || substr(hex(randomblob(2)), 1, 3) || '8' || substr(hex(randomblob(8)), 1, 15)) AS id
FROM times;

INSERT INTO products (id, sku, sku_key, title, title_key, description, price_minor, price_currency, price_rank, tracking,
    state, version, created_at, updated_at, words, words_version)
SELECT id, 'BENCH-' || number, 'BENCH-' || number, 'Product ' || number, 'product ' || number, '',
    (number % 50 + 1) * 100 + 99, 'EUR', ((number % 50 + 1) * 100 + 99) * 100, 'TRACKED', 'ACTIVE', 1, created_at,
    created_at, number || ' bench product', 1
FROM made;

INSERT INTO stock (product_id, location_id, on_hand, reserved, updated_at)
SELECT made.id, locations.id, 1000, 0, created_at FROM made, (SELECT id FROM locations ORDER BY priority LIMIT 1) AS locations;

INSERT INTO ledger (id, product_id, location_id, quantity, on_hand_after, reason, reference, note, actor, item, created_at)
SELECT randomblob(16), made.id, locations.id, 1000, 1000, 'COUNT', '', '', 'services/bench', 0, created_at
FROM made, (SELECT id FROM locations ORDER BY priority LIMIT 1) AS locations;

DROP TABLE made;
