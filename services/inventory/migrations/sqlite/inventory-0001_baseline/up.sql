-- What is sold. Keys are compared byte by byte.
CREATE TABLE products (
    id BLOB PRIMARY KEY,
    sku TEXT NOT NULL,
    -- The stock code without regard to letter case.
    sku_key TEXT NOT NULL UNIQUE,
    title TEXT NOT NULL,
    title_key TEXT NOT NULL,
    description TEXT NOT NULL,
    price_minor INTEGER NOT NULL CHECK (price_minor >= 0),
    price_currency TEXT NOT NULL,
    -- The amount in ten-thousandths of the currency's unit: comparable whatever its smallest unit is.
    price_rank INTEGER NOT NULL,
    tracking TEXT NOT NULL CHECK (tracking IN ('TRACKED', 'UNTRACKED')),
    state TEXT NOT NULL CHECK (state IN ('ACTIVE', 'ARCHIVED')),
    version INTEGER NOT NULL,
    created_at TEXT NOT NULL,
    updated_at TEXT NOT NULL,
    -- The words that a product is found by, made by the service (src/domain/product/search.rs). words_version is the product's
    -- version that they were made of.
    words TEXT NOT NULL DEFAULT '',
    words_version INTEGER NOT NULL DEFAULT 0,
    -- From how many pieces on the product is low; empty where it never is.
    low_stock_threshold INTEGER CHECK (low_stock_threshold >= 0)
) STRICT, WITHOUT ROWID;
-- Every list of products is one of a state. With the state first, one of archived products is found as fast as one of
-- those for sale, and no list passes over products of the other state.
CREATE INDEX products_by_creation ON products (state, created_at, id);
CREATE INDEX products_by_title ON products (state, title_key, id);
CREATE INDEX products_by_price ON products (state, price_rank, id);
CREATE INDEX products_by_sku ON products (state, sku_key, id);
CREATE INDEX products_with_threshold ON products (id) WHERE low_stock_threshold IS NOT NULL;
-- Products whose words are still to be made.
CREATE INDEX products_unsearched ON products (id) WHERE words_version <> version;

-- FTS5 knows rows by number, and products have none.
CREATE TABLE product_numbers (
    number INTEGER PRIMARY KEY,
    product_id BLOB NOT NULL UNIQUE
) STRICT;
-- Words come with single spaces and in lower case: the ascii tokenizer takes them as they are.
CREATE VIRTUAL TABLE product_search USING fts5(
    words, content='', contentless_delete=1, detail='none', tokenize='ascii'
);
CREATE TRIGGER products_are_found AFTER INSERT ON products BEGIN
    INSERT INTO product_numbers (product_id) VALUES (new.id);
    INSERT INTO product_search (rowid, words)
    SELECT number, new.words FROM product_numbers WHERE product_id = new.id;
END;
CREATE TRIGGER products_are_found_anew AFTER UPDATE OF words ON products BEGIN
    DELETE FROM product_search WHERE rowid = (SELECT number FROM product_numbers WHERE product_id = new.id);
    INSERT INTO product_search (rowid, words)
    SELECT number, new.words FROM product_numbers WHERE product_id = new.id;
END;

-- Where stock lies.
CREATE TABLE locations (
    id BLOB PRIMARY KEY,
    code TEXT NOT NULL,
    code_key TEXT NOT NULL UNIQUE,
    display_name TEXT NOT NULL,
    priority INTEGER NOT NULL,
    created_at TEXT NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX locations_by_priority ON locations (priority, code_key);
INSERT INTO locations (id, code, code_key, display_name, priority, created_at)
VALUES (x'019a0000000070008000000000000001', 'main', 'MAIN', 'Main', 0, strftime('%Y-%m-%d %H:%M:%f+00:00', 'now'))
ON CONFLICT DO NOTHING;

-- How much there is: on_hand is the sum of the ledger, reserved that of what open reservations hold.
CREATE TABLE stock (
    product_id BLOB NOT NULL REFERENCES products (id),
    location_id BLOB NOT NULL REFERENCES locations (id),
    on_hand INTEGER NOT NULL,
    reserved INTEGER NOT NULL,
    updated_at TEXT NOT NULL,
    PRIMARY KEY (product_id, location_id),
    CONSTRAINT stock_never_oversold CHECK (0 <= reserved AND reserved <= on_hand)
) STRICT, WITHOUT ROWID;

-- Every change of on_hand. Only ever added to.
CREATE TABLE ledger (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    id BLOB NOT NULL,
    product_id BLOB NOT NULL,
    location_id BLOB NOT NULL,
    quantity INTEGER NOT NULL CHECK (quantity <> 0),
    on_hand_after INTEGER NOT NULL CHECK (on_hand_after >= 0),
    reason TEXT NOT NULL CHECK (reason IN
        ('RECEIPT', 'COUNT', 'DAMAGE', 'CORRECTION', 'SALE', 'RETURN', 'TRANSFER_OUT', 'TRANSFER_IN')),
    reference TEXT NOT NULL,
    note TEXT NOT NULL,
    actor TEXT NOT NULL,
    -- SHA-256 of the key of the request that made the entry, where it has one. Kept for ever, so that a key never
    -- takes effect twice.
    request BLOB,
    item INTEGER NOT NULL,
    created_at TEXT NOT NULL,
    FOREIGN KEY (product_id, location_id) REFERENCES stock (product_id, location_id)
) STRICT;
CREATE INDEX ledger_by_product ON ledger (product_id, seq);
CREATE UNIQUE INDEX ledger_once ON ledger (request, item) WHERE request IS NOT NULL;
-- Stock as of a time: the last entry at a place by then.
CREATE INDEX ledger_as_of ON ledger (product_id, location_id, created_at, seq);

-- Stock held for an order; the id is the order's.
CREATE TABLE reservations (
    id BLOB PRIMARY KEY,
    state TEXT NOT NULL CHECK (state IN ('OPEN', 'COMMITTED', 'RELEASED', 'EXPIRED')),
    -- SHA-256 of what was asked for; empty where an order was released before it ever asked.
    items_hash BLOB NOT NULL,
    expires_at TEXT NOT NULL,
    created_at TEXT NOT NULL,
    updated_at TEXT NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX reservations_lapsing ON reservations (expires_at) WHERE state = 'OPEN';

CREATE TABLE reservation_lines (
    reservation_id BLOB NOT NULL REFERENCES reservations (id),
    product_id BLOB NOT NULL,
    location_id BLOB NOT NULL,
    quantity INTEGER NOT NULL CHECK (quantity > 0),
    returned INTEGER NOT NULL CHECK (0 <= returned AND returned <= quantity),
    -- Until when the line holds stock: the reservation's expires_at while that is open, else empty.
    held_until TEXT,
    PRIMARY KEY (reservation_id, product_id, location_id),
    FOREIGN KEY (product_id, location_id) REFERENCES stock (product_id, location_id)
) STRICT, WITHOUT ROWID;
CREATE INDEX reservation_lines_held ON reservation_lines (product_id, held_until) WHERE held_until IS NOT NULL;

-- Requests with a key of their own, and what was answered.
CREATE TABLE requests (
    -- SHA-256 of caller, method and key.
    id BLOB PRIMARY KEY,
    -- SHA-256 of the request: another one may not use the key.
    hash BLOB NOT NULL,
    answer TEXT NOT NULL,
    created_at TEXT NOT NULL
) STRICT, WITHOUT ROWID;
-- Keys without a ledger entry are kept for ever, without their answer: they need not be looked at again.
CREATE INDEX requests_by_age ON requests (created_at) WHERE answer <> '';
