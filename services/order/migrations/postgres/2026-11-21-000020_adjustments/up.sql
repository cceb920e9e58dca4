-- What is given back of an order without goods that came back, and what leaves in parts. A copy of the version before
-- goes on meanwhile: the defaults are what it means.

-- What adjustments under way will give back.
ALTER TABLE orders ADD COLUMN refunding_minor bigint NOT NULL DEFAULT 0
    CONSTRAINT orders_refunding_within_total
    CHECK (refunding_minor >= 0 AND refunded_minor + refunding_minor <= total_minor);

-- Pieces that shipments name, those of them that came back, and those cancelled before they were shipped.
ALTER TABLE order_lines ADD COLUMN shipped bigint NOT NULL DEFAULT 0;
ALTER TABLE order_lines ADD COLUMN returned_shipped bigint NOT NULL DEFAULT 0;
ALTER TABLE order_lines ADD COLUMN cancelled bigint NOT NULL DEFAULT 0
    CONSTRAINT order_lines_pieces CHECK (
        cancelled >= 0 AND shipped >= 0 AND returned_shipped >= 0
        AND returned_shipped <= shipped AND returned_shipped <= returned
        AND shipped + cancelled + returned - returned_shipped <= quantity
    );

-- A return, a cancellation of pieces or a refund without goods: all that is given back of an order that stays
-- confirmed. The state says RETURNING of each that is under way.
ALTER TABLE returns ADD COLUMN cause text NOT NULL DEFAULT 'RETURN'
    CHECK (cause IN ('RETURN', 'CANCELLATION', 'REFUND'));

-- Whether an entry is for staff alone.
ALTER TABLE timeline_entries ADD COLUMN internal boolean NOT NULL DEFAULT false;

CREATE TABLE shipments (
    id uuid PRIMARY KEY,
    order_id uuid NOT NULL REFERENCES orders (id),
    carrier text NOT NULL,
    tracking_number text NOT NULL,
    tracking_url text NOT NULL,
    shipped_at timestamptz NOT NULL,
    created_at timestamptz NOT NULL
);
CREATE INDEX shipments_by_order ON shipments (order_id, id);

CREATE TABLE shipment_lines (
    shipment_id uuid NOT NULL REFERENCES shipments (id),
    line_number integer NOT NULL,
    quantity bigint NOT NULL CHECK (quantity > 0),
    PRIMARY KEY (shipment_id, line_number)
);
