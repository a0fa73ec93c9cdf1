#!/usr/bin/env bash
# RUSTC_WRAPPER for building the extension where a server has no headers: pgrx's own bindings of each major, which it brings for its
# documentation, stand for those that are made from headers. With DOCS_RS=1, which keeps pgrx from looking for headers.
#   DOCS_RS=1 RUSTC_WRAPPER=scripts/without-headers/rustc.sh cargo build --package pg_extension --no-default-features --features pg17
# For tests only: the bindings are of one minor release on one platform.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)

case " $* " in
    # The crate with the bindings includes them under this flag, beside an unstable attribute of rustdoc.
    *" --crate-name pgrx_pg_sys "*)
        export RUSTC_BOOTSTRAP=1
        exec "$@" --cfg docsrs ;;
    # What is inline in the headers has to come from somewhere.
    *" --crate-name foreshard_pg "*--crate-type\ cdylib*)
        folder=''
        previous=''
        for argument in "$@"; do
            [ "$previous" != --out-dir ] || folder=$argument
            previous=$argument
        done
        ${CC:-cc} -O1 -fPIC -Wall -Werror -c "$here/inline.c" -o "$folder/inline.o"
        exec "$@" -C "link-arg=$folder/inline.o" ;;
esac
exec "$@"
