-- The words that a product is found by, made by the service (src/domain/search.rs). words_version is the product's
-- version that they were made of.
ALTER TABLE products ADD COLUMN words TEXT NOT NULL DEFAULT '';
ALTER TABLE products ADD COLUMN words_version INTEGER NOT NULL DEFAULT 0;
-- Products whose words are still to be made.
CREATE INDEX products_unsearched ON products (id) WHERE words_version <> version;

-- FTS5 knows rows by number, and products have none.
CREATE TABLE product_numbers (
    number INTEGER PRIMARY KEY,
    product_id BLOB NOT NULL UNIQUE
) STRICT;
INSERT INTO product_numbers (product_id) SELECT id FROM products;
-- Words come with single spaces and in lower case: the ascii tokenizer takes them as they are.
CREATE VIRTUAL TABLE product_search USING fts5(
    words, content='', contentless_delete=1, detail='none', tokenize='ascii'
);
CREATE TRIGGER products_are_found AFTER INSERT ON products BEGIN
    INSERT INTO product_numbers (product_id) VALUES (new.id);
    INSERT INTO product_search (rowid, words)
    SELECT number, new.words FROM product_numbers WHERE product_id = new.id;
END;
CREATE TRIGGER products_are_found_anew AFTER UPDATE OF words ON products BEGIN
    DELETE FROM product_search WHERE rowid = (SELECT number FROM product_numbers WHERE product_id = new.id);
    INSERT INTO product_search (rowid, words)
    SELECT number, new.words FROM product_numbers WHERE product_id = new.id;
END;
