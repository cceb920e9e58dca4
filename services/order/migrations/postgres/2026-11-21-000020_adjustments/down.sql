DROP TABLE shipment_lines;
DROP TABLE shipments;
ALTER TABLE timeline_entries DROP COLUMN internal;
ALTER TABLE returns DROP COLUMN cause;
ALTER TABLE order_lines DROP COLUMN cancelled;
ALTER TABLE order_lines DROP COLUMN returned_shipped;
ALTER TABLE order_lines DROP COLUMN shipped;
ALTER TABLE orders DROP COLUMN refunding_minor;
