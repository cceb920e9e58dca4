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
    updated_at timestamptz NOT NULL
);
CREATE INDEX products_by_creation ON products (created_at, id);
CREATE INDEX products_by_title ON products (title_key, id);
CREATE INDEX products_by_price ON products (price_rank, id);

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

-- Every change of on_hand. Only ever added to.
CREATE TABLE ledger (
    seq bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    id uuid NOT NULL,
    product_id uuid NOT NULL,
    location_id uuid NOT NULL,
    quantity bigint NOT NULL CHECK (quantity <> 0),
    on_hand_after bigint NOT NULL CHECK (on_hand_after >= 0),
    reason text NOT NULL CHECK (reason IN ('RECEIPT', 'COUNT', 'DAMAGE', 'CORRECTION', 'SALE', 'RETURN')),
    reference text NOT NULL,
    note text NOT NULL,
    actor text NOT NULL,
    -- SHA-256 of the key of the request that made the entry, where it has one. Kept for ever, so that a key never
    -- takes effect twice.
    request bytea,
    item integer NOT NULL,
    created_at timestamptz NOT NULL,
    FOREIGN KEY (product_id, location_id) REFERENCES stock (product_id, location_id)
);
CREATE INDEX ledger_by_product ON ledger (product_id, seq);
CREATE UNIQUE INDEX ledger_once ON ledger (request, item) WHERE request IS NOT NULL;

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
    reservation_id uuid NOT NULL REFERENCES reservations (id),
    product_id uuid NOT NULL,
    location_id uuid NOT NULL,
    quantity bigint NOT NULL CHECK (quantity > 0),
    returned bigint NOT NULL CHECK (0 <= returned AND returned <= quantity),
    -- Until when the line holds stock: the reservation's expires_at while that is open, else empty.
    held_until timestamptz,
    PRIMARY KEY (reservation_id, product_id, location_id),
    FOREIGN KEY (product_id, location_id) REFERENCES stock (product_id, location_id)
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
CREATE INDEX requests_by_age ON requests (created_at);
