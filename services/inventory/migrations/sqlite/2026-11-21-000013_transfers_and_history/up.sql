-- Transfers between locations have reasons of their own. SQLite changes a check only with its table.
CREATE TABLE new_ledger (
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
INSERT INTO new_ledger SELECT * FROM ledger ORDER BY seq;
DROP TABLE ledger;
ALTER TABLE new_ledger RENAME TO ledger;
CREATE INDEX ledger_by_product ON ledger (product_id, seq);
CREATE UNIQUE INDEX ledger_once ON ledger (request, item) WHERE request IS NOT NULL;

-- Stock as of a time: the last entry at a place by then.
CREATE INDEX ledger_as_of ON ledger (product_id, location_id, created_at, seq);

-- Keys without a ledger entry are kept for ever, without their answer: they need not be looked at again.
DROP INDEX requests_by_age;
CREATE INDEX requests_by_age ON requests (created_at) WHERE answer <> '';
