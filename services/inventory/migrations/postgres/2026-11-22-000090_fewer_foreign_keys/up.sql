-- These rows are written by a transaction that writes what they stand at, or has locked it, and nothing deletes that: looking
-- for it once more for each was most of what a reservation's rows cost. souk verify finds rows without it (docs/adr/0012).
ALTER TABLE reservation_lines DROP CONSTRAINT reservation_lines_reservation_id_fkey;
ALTER TABLE reservation_lines DROP CONSTRAINT reservation_lines_product_id_location_id_fkey;
ALTER TABLE ledger DROP CONSTRAINT ledger_product_id_location_id_fkey;
