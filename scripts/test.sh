#!/usr/bin/env bash
# Runs every test. What the end-to-end tests start (the sidecar, the extension inside a private copy of the server) is built
# and staged before the runner, so that no test waits for a compiler and the runner's timeouts mean something.
#   scripts/test.sh everything|origin|soak nextest|libtest PG_CONFIG [further arguments of the runner]
# everything is the whole workspace; origin is what depends on the PostgreSQL of PG_CONFIG: the extension's suite and the
# end-to-end path through a sidecar; soak is what may run for hours.
set -euo pipefail

scope=$1 runner=$2 pg_config=$3
shift 3

cargo build --locked --package sidecar
stage() { cargo run --quiet --locked --package foreshard-tests --bin stage-server -- --pg-config "$1"; }
FORESHARD_SERVER=$(stage "$pg_config")
export FORESHARD_SERVER
case $scope in
    everything)
        selection=(--workspace)
        # pg_upgrade goes from one major to another.
        FORESHARD_SERVER_16=$(stage "$(scripts/setup.sh postgres 16)")
        export FORESHARD_SERVER_16
        FORESHARD_SERVER_18=$(stage "$(scripts/setup.sh postgres 18)")
        export FORESHARD_SERVER_18
        # The migration tools that the examples are for.
        scripts/setup.sh sqlx >/dev/null
        scripts/setup.sh alembic >/dev/null ;;
    origin) selection=(--package foreshard-tests --test extension --test contract) ;;
    soak) selection=(--package foreshard-edge --package foreshard-tests --test simulation --test contract) ;;
    *) echo "scripts/test.sh: everything, origin or soak, not $scope" >&2; exit 64 ;;
esac
# Errors that tests return carry their context; a backtrace of every one of them would bury it.
export RUST_LIB_BACKTRACE=${RUST_LIB_BACKTRACE:-0}
# Property tests draw the same cases each time, so that a result is one of the tree and not of the day: others with another seed, and
# whenever they may run for hours.
[ "$scope" = soak ] || export PROPTEST_RNG_SEED=${PROPTEST_RNG_SEED:-20261124}

if [ "$runner" = nextest ]; then
    exec cargo nextest run --locked "${selection[@]}" "$@" </dev/null
fi
exec cargo test --locked "${selection[@]}" "$@" </dev/null
