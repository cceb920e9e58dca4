CREATE TABLE accounts (
    id blob PRIMARY KEY NOT NULL,
    email text NOT NULL UNIQUE,
    balance integer NOT NULL CONSTRAINT accounts_balance_sane CHECK (balance >= 0),
    currency text NOT NULL,
    created_at text NOT NULL
) STRICT, WITHOUT ROWID;
