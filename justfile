# The commands of this repository, by short names: `just` lists them. Each works without just, too.

_list:
    @just --list --unsorted

# Everything in one process, on SQLite files in ./souk-data
up *ARGS:
    cargo run -- {{ARGS}}

# A small shop to look at, in the souk that `just up` runs
demo:
    cargo run -- demo

# All tests, or those that `cargo nextest run` is told
test *ARGS:
    ./test {{ARGS}}

# All that must pass before a change lands
ci:
    bash .ci/run

# Rust and contracts, formatted
fmt:
    cargo fmt --all
    .ci/tool buf format --write

# Warnings
lint:
    cargo clippy --workspace --all-targets -- -D warnings
    .ci/tool buf lint

# Documents and goldens that are made from code, written anew
docs:
    SOUK_UPDATE_DOCS=1 cargo nextest run --workspace -E 'test(document)|test(picture)|binary(docs)'

# The steps of docs/add-an-rpc.md, carried out
tutorial:
    .ci/tutorial

# Tests with clients from npm, in a browser, and with the official gRPC libraries
clients:
    .ci/clients

# Side-by-side benchmarks
bench *ARGS:
    cargo run --release -p souk-bench -- {{ARGS}}

# Lines of code, crate by crate
count:
    .ci/count

# Files and functions on the way of a request
hops:
    .ci/hops

# The promises, checked on the data in ./souk-data
verify:
    cargo run -- verify

# The promises, put to the test with buyers, duplicates and kills
prove *ARGS:
    cargo run -- prove {{ARGS}}
