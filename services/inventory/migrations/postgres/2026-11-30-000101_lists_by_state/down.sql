DROP INDEX products_by_sku;
DROP INDEX products_by_price;
DROP INDEX products_by_title;
DROP INDEX products_by_creation;
CREATE INDEX products_by_creation ON products (created_at, id);
CREATE INDEX products_by_title ON products (title_key, id);
CREATE INDEX products_by_price ON products (price_rank, id);
