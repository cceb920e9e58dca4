CREATE TABLE entries (
    account_id uuid NOT NULL REFERENCES accounts,
    number integer NOT NULL,
    amount bigint NOT NULL,
    PRIMARY KEY (account_id, number)
);
