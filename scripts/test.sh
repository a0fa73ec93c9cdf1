#!/usr/bin/env bash
# Runs every test. What the end-to-end tests start (the sidecar, the extension inside a private copy of the server) is built
# and staged before the runner, so that no test waits for a compiler and the runner's timeouts mean something.
#   scripts/test.sh nextest|libtest PG_CONFIG [further arguments of the runner]
set -euo pipefail

runner=$1 pg_config=$2
shift 2

cargo build --locked --package sidecar
FORESHARD_SERVER=$(cargo run --quiet --locked --package foreshard-tests --bin stage-server -- --pg-config "$pg_config")
export FORESHARD_SERVER
# Errors that tests return carry their context; a backtrace of every one of them would bury it.
export RUST_LIB_BACKTRACE=${RUST_LIB_BACKTRACE:-0}

if [ "$runner" = nextest ]; then
    exec cargo nextest run --locked --workspace "$@" </dev/null
fi
exec cargo test --locked --workspace "$@" </dev/null
