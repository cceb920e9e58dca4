DROP TRIGGER products_are_found_anew;
DROP TRIGGER products_are_found;
DROP TABLE product_search;
DROP TABLE product_numbers;
DROP INDEX products_unsearched;
ALTER TABLE products DROP COLUMN words_version;
ALTER TABLE products DROP COLUMN words;
