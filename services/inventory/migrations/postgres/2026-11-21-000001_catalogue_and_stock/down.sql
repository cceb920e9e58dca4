DROP TABLE requests;
DROP TABLE reservation_lines;
DROP TABLE reservations;
DROP TABLE ledger;
DROP TABLE stock;
DROP TABLE locations;
DROP TABLE products;
