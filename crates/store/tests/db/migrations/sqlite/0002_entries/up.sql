CREATE TABLE entries (
    account_id blob NOT NULL REFERENCES accounts,
    number integer NOT NULL,
    amount integer NOT NULL,
    PRIMARY KEY (account_id, number)
) STRICT, WITHOUT ROWID;
