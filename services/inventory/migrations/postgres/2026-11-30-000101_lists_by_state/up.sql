-- Every list of products is one of a state. With the state first, one of archived products is found as fast as one of
-- those for sale, and no list passes over products of the other state.
DROP INDEX products_by_creation;
DROP INDEX products_by_title;
DROP INDEX products_by_price;
CREATE INDEX products_by_creation ON products (state, created_at, id);
CREATE INDEX products_by_title ON products (state, title_key, id);
CREATE INDEX products_by_price ON products (state, price_rank, id);
CREATE INDEX products_by_sku ON products (state, sku_key, id);
