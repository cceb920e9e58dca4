CREATE TABLE accounts (
    id blob PRIMARY KEY NOT NULL,
    email text NOT NULL UNIQUE,
    balance integer NOT NULL CONSTRAINT accounts_balance_sane CHECK (balance >= 0),
    currency text NOT NULL,
    created_at text NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE entries (
    account_id blob NOT NULL REFERENCES accounts,
    number integer NOT NULL,
    amount integer NOT NULL,
    PRIMARY KEY (account_id, number)
) STRICT, WITHOUT ROWID;
