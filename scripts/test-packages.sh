#!/usr/bin/env bash
# Installs the packages of `make package` on a Debian of their own, made with debootstrap, beside the distribution's PostgreSQL 15:
# a cluster there gets the extension, a sidecar from the other package reads a shard of it and hears of a change, and after a purge
# nothing of either is left. Needs root, debootstrap and a Debian mirror.
#   scripts/test-packages.sh [FOLDER_WITH_PACKAGES]
# MIRROR and SECURITY_MIRROR name others than Debian's own; KEEP=/folder keeps the bare Debian there for the next time.
set -euo pipefail
cd "$(dirname "$0")/.."

packages=${1:-target/package}
mirror=${MIRROR:-http://deb.debian.org/debian}
security=${SECURITY_MIRROR:-http://deb.debian.org/debian-security}
suite=bookworm
say() { printf '%s\n' "test-packages: $*" >&2; }
die() { say "$*"; exit 1; }

[ "$(id -u)" = 0 ] || die "a Debian in a folder is made and entered by root only: sudo $0"
command -v debootstrap >/dev/null || die "debootstrap is missing: apt install debootstrap"
newest() { find "$packages" -maxdepth 1 -name "$1" -printf '%T@ %p\n' 2>/dev/null | sort -n | tail -1 | cut -d' ' -f2-; }
extension=$(newest "postgresql-15-foreshard_*.deb") sidecar=$(newest "foreshard_*.deb")
[ -n "$extension" ] && [ -n "$sidecar" ] || die "$packages lacks packages of the extension for 15 or of the sidecar: make package"

work=$(mktemp -d)
bare=${KEEP:-$work/bare} root=$work/root
enter=(env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C.UTF-8 DEBIAN_FRONTEND=noninteractive HOME=/root chroot "$root")
inside() { "${enter[@]}" "$@"; }
# Not by Debian's commands, which need /proc for it.
stop() { inside runuser -u postgres -- /usr/lib/postgresql/15/bin/pg_ctl stop --silent -D /var/lib/postgresql/15/shop --mode fast; }
finish() {
    stop >/dev/null 2>&1 || true
    [ ! -f "$work/sidecar.pid" ] || kill "$(cat "$work/sidecar.pid")" 2>/dev/null || true
    rm -rf "$work"
}
trap finish EXIT

if [ ! -e "$bare/complete" ]; then
    say "a bare Debian"
    debootstrap --variant=minbase "$suite" "$bare" "$mirror" >"$work/log" 2>&1 || { tail -20 "$work/log" >&2; die "debootstrap failed"; }
    touch "$bare/complete"
fi
cp -a "$bare" "$root"
printf 'deb %s %s main\ndeb %s %s-security main\n' "$mirror" "$suite" "$security" "$suite" >"$root/etc/apt/sources.list"
# Nothing is started by installing it.
printf '#!/bin/sh\nexit 101\n' >"$root/usr/sbin/policy-rc.d"
chmod +x "$root/usr/sbin/policy-rc.d"

say "the distribution's PostgreSQL"
inside apt-get -qq update
inside apt-get -qq install --no-install-recommends postgresql-15 adduser curl ca-certificates >"$work/log" 2>&1 ||
    { tail -20 "$work/log" >&2; die "installing PostgreSQL failed"; }
inside pg_dropcluster 15 main 2>/dev/null || true
files() { (cd "$root" && find . -xdev \( -path ./proc -o -path ./sys -o -path ./tmp -o -path ./var/cache -o -path ./var/log -o -path ./run \) -prune -o -print | sort); }
files >"$work/before"

say "$(basename "$extension"), $(basename "$sidecar")"
mkdir -p "$root/tmp/packages"
cp "$extension" "$sidecar" "$root/tmp/packages/"
inside sh -c 'apt-get -qq install --no-install-recommends /tmp/packages/*.deb' >"$work/log" 2>&1 || { tail -20 "$work/log" >&2; die "installing failed"; }

say "a cluster with the extension"
inside pg_createcluster --port 5999 15 shop -- --auth=trust >/dev/null
inside pg_conftool 15 shop set wal_level logical
inside pg_conftool 15 shop set output_plugin_libraries 'foreshard, pgoutput'
# What a container's own file system has no room for, or none at all.
inside pg_conftool 15 shop set dynamic_shared_memory_type mmap
inside pg_ctlcluster 15 shop start || { tail -20 "$root/var/log/postgresql/postgresql-15-shop.log" >&2; die "the server does not start"; }
ask() { inside psql -X -q -A -t -v ON_ERROR_STOP=1 -h /var/run/postgresql -p 5999 -U postgres -d postgres -c "$1"; }
ask "CREATE EXTENSION foreshard" >/dev/null
ask "CREATE TABLE product (id int PRIMARY KEY, name text); INSERT INTO product VALUES (1, 'one');
     CREATE ROLE paris LOGIN REPLICATION; SELECT foreshard.create_edge('paris', role => 'paris');
     SELECT foreshard.create_shard('products', 'product'); SELECT foreshard.map_function('home', '{products}')" >/dev/null
failing=$(ask "SELECT \"check\", detail FROM foreshard.health() WHERE status = 'fail'")
[ -z "$failing" ] || die "health(): $failing"
parts=$(ask "SELECT count(*) FROM foreshard.fetch('paris', '{products}')")
[ "$parts" -ge 3 ] || die "a fetch gave $parts parts"

say "a sidecar of it"
"${enter[@]}" foreshard serve --edge paris --auth none --listen unix:/tmp/paris --origin "host=127.0.0.1 port=5999 user=paris dbname=postgres" \
    >"$work/sidecar.log" 2>&1 &
echo $! >"$work/sidecar.pid"
rows() { inside curl -s --unix-socket /tmp/paris http://paris/v1/functions/home/shards/products/rows; }
# $1 is among the rows within a minute.
told() {
    for _ in $(seq 240); do
        answer=$(rows || true)
        case $answer in *"$1"*) return ;; esac
        kill -0 "$(cat "$work/sidecar.pid")" 2>/dev/null || break
        sleep 0.25
    done
    tail -20 "$work/sidecar.log" >&2
    die "the sidecar never said $1, but: $answer"
}
told one
ask "UPDATE product SET name = 'two'" >/dev/null
told two
kill "$(cat "$work/sidecar.pid")"
wait "$(cat "$work/sidecar.pid")" || true
rm "$work/sidecar.pid"

say "away with them"
ask "SELECT foreshard.drop_edge('paris'); DROP EXTENSION foreshard" >/dev/null
stop
inside pg_dropcluster 15 shop
inside apt-get -qq purge postgresql-15-foreshard foreshard >"$work/log" 2>&1 || { tail -20 "$work/log" >&2; die "purging failed"; }
files >"$work/after"
# dpkg's own records of what was.
left=$(comm -13 "$work/before" "$work/after" | grep -v -E '^\./var/lib/(dpkg/(status|available|diversions|statoverride)-old|apt/)' || true)
[ -z "$left" ] || die "left behind: $left"
say "installed, used and purged"
