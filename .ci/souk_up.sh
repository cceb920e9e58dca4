# Sourced by the scripts that need a running souk: `souk_up BINARY` starts one on SQLite and a free port, with a
# customer, products in stock and orders in it (.ci/schemathesis_seed.py), in a folder that is gone afterwards. Sets
# `work` (the folder; souk's log is souk.log there), `souk_pid`, SOUK_URL, SOUK_ADMIN, SOUK_CUSTOMER and SOUK_NAMES, and
# changes into the folder.

souk_down() {
    if [[ -n ${souk_pid-} ]]; then
        kill "$souk_pid" 2>/dev/null || true
        wait "$souk_pid" 2>/dev/null || true
    fi
    rm -rf "$work"
}

souk_up() {
    local souk=$1 root=$PWD class who
    work=$(mktemp -d)
    trap souk_down EXIT
    # They ask far more than a caller may: limits have tests of their own.
    for class in READ WRITE AUTH; do
        for who in CALLER ADDRESS; do
            export "SOUK_GATEWAY__RATE_LIMITS__${class}__PER_${who}__RATE=1000000/s"
            export "SOUK_GATEWAY__RATE_LIMITS__${class}__PER_${who}__BURST=1000000"
        done
    done
    cd "$work"
    "$souk" up --listen 127.0.0.1:0 --data-dir data >souk.log 2>&1 &
    souk_pid=$!
    SECONDS=0
    until [[ -s data/running.json ]]; do
        kill -0 "$souk_pid" 2>/dev/null || { cat souk.log >&2; return 1; }
        (( SECONDS < 120 )) || { echo "souk is not ready after two minutes" >&2; return 1; }
        sleep 0.2
    done
    # Prints `export` lines: the address, a token of each kind of caller, and names of what there is.
    python3 "$root/.ci/schemathesis_seed.py" data >variables
    source ./variables
}
