-- The words that a product is found by, made by the service (src/domain/search.rs), not by a text search configuration,
-- whose words depend on the database's locale. words_version is the product's version that they were made of.
ALTER TABLE products
    ADD COLUMN words text NOT NULL DEFAULT '',
    ADD COLUMN words_version bigint NOT NULL DEFAULT 0,
    ADD COLUMN search tsvector GENERATED ALWAYS AS (array_to_tsvector(string_to_array(words, ' '))) STORED;
CREATE INDEX products_search ON products USING gin (search);
-- Products whose words are still to be made.
CREATE INDEX products_unsearched ON products (id) WHERE words_version <> version;
