-- The ledger keeps its entries, and so the wider list of reasons.
DROP INDEX ledger_as_of;
DROP INDEX requests_by_age;
DELETE FROM requests WHERE answer = '';
CREATE INDEX requests_by_age ON requests (created_at);
