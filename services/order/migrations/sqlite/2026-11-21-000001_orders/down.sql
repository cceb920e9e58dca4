DROP TABLE idempotency_keys;
DROP TABLE return_lines;
DROP TABLE returns;
DROP TABLE timeline_entries;
DROP TABLE order_lines;
DROP TABLE orders;
