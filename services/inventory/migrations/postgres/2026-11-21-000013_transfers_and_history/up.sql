-- Transfers between locations have reasons of their own.
ALTER TABLE ledger DROP CONSTRAINT ledger_reason_check;
ALTER TABLE ledger ADD CONSTRAINT ledger_reason_check CHECK (reason IN
    ('RECEIPT', 'COUNT', 'DAMAGE', 'CORRECTION', 'SALE', 'RETURN', 'TRANSFER_OUT', 'TRANSFER_IN'));

-- Stock as of a time: the last entry at a place by then.
CREATE INDEX ledger_as_of ON ledger (product_id, location_id, created_at, seq);

-- Keys without a ledger entry are kept for ever, without their answer: they need not be looked at again.
DROP INDEX requests_by_age;
CREATE INDEX requests_by_age ON requests (created_at) WHERE answer <> '';
