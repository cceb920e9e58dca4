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

-- What happened: each event is written in the transaction of the change that it tells of.
CREATE TABLE events (
    -- The place in the log. One transaction writes at a time, so there is no gap.
    position INTEGER PRIMARY KEY AUTOINCREMENT,
    id BLOB NOT NULL,
    kind TEXT NOT NULL,
    subject TEXT NOT NULL,
    data_type TEXT NOT NULL,
    data BLOB NOT NULL,
    created_at TEXT NOT NULL,
    -- Whose event it is: that user's streams read these alone, by the index, which ends with the position as each does.
    owner_id BLOB
);
CREATE INDEX events_of_owner ON events (owner_id) WHERE owner_id IS NOT NULL;

-- Up to where each reader has read the log of a service.
CREATE TABLE event_readers (
    reader TEXT NOT NULL,
    source TEXT NOT NULL,
    position INTEGER NOT NULL,
    PRIMARY KEY (reader, source)
);

-- Drawn once: cursors are encrypted with a key that is made of it, so those of another database are noticed. A secret.
-- One row.
CREATE TABLE event_epoch (
    single INTEGER PRIMARY KEY DEFAULT 1 CHECK (single = 1),
    epoch BLOB NOT NULL
);
INSERT INTO event_epoch (epoch) VALUES (randomblob(32));
