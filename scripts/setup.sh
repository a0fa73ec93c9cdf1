#!/usr/bin/env bash
# Installs what a fresh Debian 12 with rustup's Rust lacks, and does nothing, quickly, when all of it is there.
#   scripts/setup.sh base    PostgreSQL 15 with server headers, libclang (pgrx's bindings), a C toolchain
#   scripts/setup.sh bench   wrk, the load generator of the benchmarks
#   scripts/setup.sh deny    cargo-deny, built from crates.io into the user's cache directory
set -euo pipefail

DENY_VERSION=0.20.2
TOOLS=${XDG_CACHE_HOME:-$HOME/.cache}/foreshard/tools

as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"
    elif command -v sudo >/dev/null; then sudo "$@"
    else echo "setup: installing packages needs root: run 'make setup' once as root, or install sudo" >&2; exit 1
    fi
}

has_libclang() { compgen -G '/usr/lib/llvm-*/lib/libclang*.so*' >/dev/null || ldconfig -p 2>/dev/null | grep -q libclang; }

missing_packages() {
    command -v cc >/dev/null && command -v make >/dev/null || echo build-essential
    command -v pkg-config >/dev/null || echo pkg-config
    [ -x /usr/lib/postgresql/15/bin/postgres ] || echo postgresql-15
    [ -f /usr/include/postgresql/15/server/postgres.h ] || echo postgresql-server-dev-15
    has_libclang || echo libclang-dev
}

# Debian's package creates and starts a cluster "main" on port 5432 when it is first installed. The project's clusters
# are throwaway ones with their own ports, so nothing of that kind is left behind: the setting is put back afterwards.
install_packages() {
    local conf=/etc/postgresql-common/createcluster.conf saved=''
    as_root env DEBIAN_FRONTEND=noninteractive apt-get update -q
    if printf '%s\n' "$@" | grep -qx 'postgresql-15'; then
        as_root env DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends postgresql-common
        saved=$(mktemp)
        cat "$conf" >"$saved"
        echo 'create_main_cluster = false' | as_root tee -a "$conf" >/dev/null
    fi
    local status=0
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends "$@" || status=$?
    if [ -n "$saved" ]; then
        as_root tee "$conf" <"$saved" >/dev/null
        rm -f "$saved"
    fi
    return "$status"
}

base() {
    if [ -f /etc/debian_version ]; then
        local packages
        mapfile -t packages < <(missing_packages)
        if [ "${#packages[@]}" -gt 0 ]; then
            echo "setup: installing ${packages[*]}"
            install_packages "${packages[@]}"
        fi
    fi
    command -v cargo >/dev/null || { echo "setup: no cargo on PATH: install Rust with rustup first" >&2; exit 1; }
}

bench() {
    if ! command -v wrk >/dev/null && [ -f /etc/debian_version ]; then install_packages wrk; fi
}

deny() {
    if cargo deny --version >/dev/null 2>&1 || [ -x "$TOOLS/bin/cargo-deny" ]; then return; fi
    echo "setup: building cargo-deny $DENY_VERSION into $TOOLS (about four minutes on two cores, once per machine)"
    cargo install --quiet --locked "cargo-deny@$DENY_VERSION" --root "$TOOLS" --target-dir "$TOOLS/build"
    rm -rf "$TOOLS/build"
}

case "${1:-base}" in
    base) base ;;
    bench) bench ;;
    deny) deny ;;
    *) echo "usage: scripts/setup.sh base|bench|deny" >&2; exit 64 ;;
esac
