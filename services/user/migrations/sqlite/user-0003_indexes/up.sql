-- Lists of disabled accounts. Almost all accounts are active.
CREATE INDEX users_disabled ON users (create_time DESC, id DESC) WHERE state = 'DISABLED';
