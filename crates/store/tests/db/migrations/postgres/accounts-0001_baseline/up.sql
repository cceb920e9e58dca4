CREATE TABLE accounts (
    id uuid PRIMARY KEY,
    email text NOT NULL CONSTRAINT accounts_email_key UNIQUE,
    balance bigint NOT NULL CONSTRAINT accounts_balance_sane CHECK (balance >= 0),
    currency text NOT NULL,
    created_at timestamptz NOT NULL
);

CREATE TABLE entries (
    account_id uuid NOT NULL REFERENCES accounts,
    number integer NOT NULL,
    amount bigint NOT NULL,
    PRIMARY KEY (account_id, number)
);
