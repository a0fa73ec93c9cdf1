#!/usr/bin/env bash
# Type-checks the extension for a major that no server can be had of, against the bindings that pgrx brings for its
# documentation.
#   scripts/check-without-server.sh 17
set -euo pipefail
cd "$(dirname "$0")/.."

if [ "${1:-}" = --as-rustc-wrapper ]; then
    shift
    case " $* " in
        # The crate with the bindings includes them under this flag, beside an unstable attribute of rustdoc.
        *" --crate-name pgrx_pg_sys "*) export RUSTC_BOOTSTRAP=1; exec "$@" --cfg docsrs ;;
    esac
    exec "$@"
fi

wrapper=$(mktemp)
trap 'rm -f "$wrapper"' EXIT
printf '#!/bin/sh\nexec "%s" --as-rustc-wrapper "$@"\n' "$PWD/scripts/check-without-server.sh" >"$wrapper"
chmod +x "$wrapper"
# A folder of its own: these artefacts must not be taken for those of a real build.
DOCS_RS=1 RUSTC_WRAPPER=$wrapper CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-target}/without-server \
    cargo check --quiet --locked --package pg_extension --no-default-features --features "pg$1"
