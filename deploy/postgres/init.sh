#!/bin/bash
# Gives each service a database of its own that nobody else can enter. PostgreSQL's image runs this
# once, when its volume is new.
set -euo pipefail

database() {
    psql --set ON_ERROR_STOP=1 --username "$POSTGRES_USER" --dbname postgres \
        --set name="souk_$1" --set password="$2" <<'SQL'
CREATE ROLE :"name" LOGIN PASSWORD :'password';
CREATE DATABASE :"name" OWNER :"name";
REVOKE ALL ON DATABASE :"name" FROM PUBLIC;
SQL
}

database user "${USER_DB_PASSWORD:?}"
database inventory "${INVENTORY_DB_PASSWORD:?}"
database order "${ORDER_DB_PASSWORD:?}"
