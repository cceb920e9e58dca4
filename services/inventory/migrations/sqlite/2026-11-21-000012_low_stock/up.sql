-- From how many pieces on a product is low; empty where it never is.
ALTER TABLE products ADD COLUMN low_stock_threshold INTEGER CHECK (low_stock_threshold >= 0);
CREATE INDEX products_with_threshold ON products (id) WHERE low_stock_threshold IS NOT NULL;
