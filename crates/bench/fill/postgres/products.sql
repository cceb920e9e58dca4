-- Products number :first to :last as the API would have made them, but for their events: with their words, stock at the
-- first location, and its ledger. Older than all that is there.
SET session_replication_role = replica; -- No look at foreign keys: they are right.
CREATE TEMP TABLE made AS
SELECT
    g AS number,
    t AS created_at,
    -- A UUIDv7 of its time.
    (lpad(to_hex((extract(epoch FROM t) * 1000)::bigint), 12, '0') || '7' || substr(md5(g::text), 1, 3)
        || '8' || substr(md5(g::text), 4, 15))::uuid AS id
FROM generate_series(:first, :last) AS g, LATERAL (SELECT now() - interval '1 day' - g * interval '1 second' AS t) AS at;

INSERT INTO products (id, sku, sku_key, title, title_key, description, price_minor, price_currency, price_rank, tracking,
    state, version, created_at, updated_at, words, words_version)
SELECT id, 'BENCH-' || number, 'BENCH-' || number, 'Product ' || number, 'product ' || number, '',
    (number % 50 + 1) * 100 + 99, 'EUR', ((number % 50 + 1) * 100 + 99) * 100, 'TRACKED', 'ACTIVE', 1, created_at,
    created_at, number || ' bench product', 1
FROM made;

INSERT INTO stock (product_id, location_id, on_hand, reserved, updated_at)
SELECT made.id, locations.id, 1000, 0, created_at FROM made, (SELECT id FROM locations ORDER BY priority LIMIT 1) locations;

INSERT INTO ledger (id, product_id, location_id, quantity, on_hand_after, reason, reference, note, actor, item, created_at)
SELECT gen_random_uuid(), made.id, locations.id, 1000, 1000, 'COUNT', '', '', 'services/bench', 0, created_at
FROM made, (SELECT id FROM locations ORDER BY priority LIMIT 1) locations;
