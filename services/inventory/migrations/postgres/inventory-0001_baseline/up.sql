-- What is sold. Keys are compared byte by byte, so that pages come in the same order on every engine.
CREATE TABLE products (
    id uuid PRIMARY KEY,
    sku text NOT NULL,
    -- The stock code without regard to letter case.
    sku_key text COLLATE "C" NOT NULL UNIQUE,
    title text NOT NULL,
    title_key text COLLATE "C" NOT NULL,
    description text NOT NULL,
    price_minor bigint NOT NULL CHECK (price_minor >= 0),
    price_currency text NOT NULL,
    -- The amount in ten-thousandths of the currency's unit: comparable whatever its smallest unit is.
    price_rank bigint NOT NULL,
    tracking text NOT NULL CHECK (tracking IN ('TRACKED', 'UNTRACKED')),
    state text NOT NULL CHECK (state IN ('ACTIVE', 'ARCHIVED')),
    version bigint NOT NULL,
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL,
    -- The words that a product is found by, made by the service (src/domain/product/search.rs), not by a text search configuration,
    -- whose words depend on the database's locale. words_version is the product's version that they were made of.
    words text NOT NULL DEFAULT '',
    words_version bigint NOT NULL DEFAULT 0,
    search tsvector GENERATED ALWAYS AS (array_to_tsvector(string_to_array(words, ' '))) STORED,
    -- From how many pieces on the product is low; empty where it never is.
    low_stock_threshold bigint CHECK (low_stock_threshold >= 0)
);
-- Every list of products is one of a state. With the state first, one of archived products is found as fast as one of
-- those for sale, and no list passes over products of the other state.
CREATE INDEX products_by_creation ON products (state, created_at, id);
CREATE INDEX products_by_title ON products (state, title_key, id);
CREATE INDEX products_by_price ON products (state, price_rank, id);
CREATE INDEX products_by_sku ON products (state, sku_key, id);
CREATE INDEX products_with_threshold ON products (id) WHERE low_stock_threshold IS NOT NULL;
CREATE INDEX products_search ON products USING gin (search);
-- Products whose words are still to be made.
CREATE INDEX products_unsearched ON products (id) WHERE words_version <> version;

-- Where stock lies.
CREATE TABLE locations (
    id uuid PRIMARY KEY,
    code text NOT NULL,
    code_key text COLLATE "C" NOT NULL UNIQUE,
    display_name text NOT NULL,
    priority integer NOT NULL,
    created_at timestamptz NOT NULL
);
CREATE INDEX locations_by_priority ON locations (priority, code_key);
INSERT INTO locations (id, code, code_key, display_name, priority, created_at)
VALUES ('019a0000-0000-7000-8000-000000000001', 'main', 'MAIN', 'Main', 0, now())
ON CONFLICT DO NOTHING;

-- How much there is: on_hand is the sum of the ledger, reserved that of what open reservations hold.
CREATE TABLE stock (
    product_id uuid NOT NULL REFERENCES products (id),
    location_id uuid NOT NULL REFERENCES locations (id),
    on_hand bigint NOT NULL,
    reserved bigint NOT NULL,
    updated_at timestamptz NOT NULL,
    PRIMARY KEY (product_id, location_id),
    CONSTRAINT stock_never_oversold CHECK (0 <= reserved AND reserved <= on_hand)
);

-- Every change of on_hand. Only ever added to. It and reservation_lines have no foreign keys: their rows are written by a
-- transaction that writes what they refer to, or has locked it, and nothing deletes that. To look for it once more for
-- each was most of what a reservation's rows cost. souk verify finds rows without it (docs/adr/0012).
CREATE TABLE ledger (
    seq bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    id uuid NOT NULL,
    product_id uuid NOT NULL,
    location_id uuid NOT NULL,
    quantity bigint NOT NULL CHECK (quantity <> 0),
    on_hand_after bigint NOT NULL CHECK (on_hand_after >= 0),
    reason text NOT NULL CHECK (reason IN
        ('RECEIPT', 'COUNT', 'DAMAGE', 'CORRECTION', 'SALE', 'RETURN', 'TRANSFER_OUT', 'TRANSFER_IN')),
    reference text NOT NULL,
    note text NOT NULL,
    actor text NOT NULL,
    -- SHA-256 of the key of the request that made the entry, where it has one. Kept for ever, so that a key never
    -- takes effect twice.
    request bytea,
    item integer NOT NULL,
    created_at timestamptz NOT NULL
);
CREATE INDEX ledger_by_product ON ledger (product_id, seq);
CREATE UNIQUE INDEX ledger_once ON ledger (request, item) WHERE request IS NOT NULL;
-- Stock as of a time: the last entry at a place by then.
CREATE INDEX ledger_as_of ON ledger (product_id, location_id, created_at, seq);

-- Stock held for an order; the id is the order's.
CREATE TABLE reservations (
    id uuid PRIMARY KEY,
    state text NOT NULL CHECK (state IN ('OPEN', 'COMMITTED', 'RELEASED', 'EXPIRED')),
    -- SHA-256 of what was asked for; empty where an order was released before it ever asked.
    items_hash bytea NOT NULL,
    expires_at timestamptz NOT NULL,
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL
);
CREATE INDEX reservations_lapsing ON reservations (expires_at) WHERE state = 'OPEN';

CREATE TABLE reservation_lines (
    reservation_id uuid NOT NULL,
    product_id uuid NOT NULL,
    location_id uuid NOT NULL,
    quantity bigint NOT NULL CHECK (quantity > 0),
    returned bigint NOT NULL CHECK (0 <= returned AND returned <= quantity),
    -- Until when the line holds stock: the reservation's expires_at while that is open, else empty.
    held_until timestamptz,
    PRIMARY KEY (reservation_id, product_id, location_id)
);
CREATE INDEX reservation_lines_held ON reservation_lines (product_id, held_until) WHERE held_until IS NOT NULL;

-- Requests with a key of their own, and what was answered.
CREATE TABLE requests (
    -- SHA-256 of caller, method and key.
    id bytea PRIMARY KEY,
    -- SHA-256 of the request: another one may not use the key.
    hash bytea NOT NULL,
    answer text NOT NULL,
    created_at timestamptz NOT NULL
);
-- Keys without a ledger entry are kept for ever, without their answer: they need not be looked at again.
CREATE INDEX requests_by_age ON requests (created_at) WHERE answer <> '';
