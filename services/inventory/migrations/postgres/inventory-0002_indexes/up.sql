-- Lists of products whose stock is not tracked. Most products are tracked.
CREATE INDEX products_untracked ON products (state, id) WHERE tracking = 'UNTRACKED';
