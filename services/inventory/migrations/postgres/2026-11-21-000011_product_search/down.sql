ALTER TABLE products DROP COLUMN search, DROP COLUMN words_version, DROP COLUMN words;
