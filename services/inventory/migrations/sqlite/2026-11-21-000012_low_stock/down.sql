DROP INDEX products_with_threshold;
ALTER TABLE products DROP COLUMN low_stock_threshold;
