# Everything that people and CI do with this repository. `make` alone explains it.

TARGET_DIR := $(or $(CARGO_TARGET_DIR),target)
CARGO := cargo
# The lock file is part of the source: nothing here changes it.
LOCKED := --locked
# `make demo ARGS=--exit`; `make bench COMPARE="--seconds 10 --rounds 5" FAILOVER="--runs 20"`
ARGS ?=
COMPARE ?= --seconds 5 --rounds 3
FAILOVER ?= --runs 5
RESULTS := bench/results
# `make chaos MINUTES=60 SEED=7`
MINUTES ?= 5
SEED ?= 1
NODES ?= 3
CHAOS := docs/chaos

.PHONY: help deps bench-deps build demo test check fix bench chaos clean

help:
	@echo 'make demo             start a cluster, load it, kill the leader, count what was lost; leaves it running until Ctrl-C'
	@echo 'make demo ARGS=--exit the same, and end after the report (ARGS=... is passed to `howdahctl demo`)'
	@echo 'make test             all tests; starts every server it needs'
	@echo 'make check            formatting, lints, documentation, dependencies; changes nothing'
	@echo 'make fix              formats, and applies what the lints can'
	@echo 'make bench            howdah-bench compare, and failover of every kind (cut only as root), short; overwrites the reports in'
	@echo '                      $(RESULTS); COMPARE="$(COMPARE)" FAILOVER="$(FAILOVER)". Not in it: howdah-bench seed'
	@echo 'make chaos            as root every fault under every workload, judged; otherwise partitions and full disks are skipped;'
	@echo '                      MINUTES=5 SEED=1 NODES=3; writes $(CHAOS)/seed-S.md'
	@echo 'make build            release binaries in $(TARGET_DIR)/release: howdahctl, howdah-sidecar, howdah-proxy, howdah-bench,'
	@echo '                      howdah-chaos'
	@echo 'make deps             install what is missing: PostgreSQL, libclang, a C compiler, tools of tests (Debian, Ubuntu)'
	@echo 'make bench-deps       the same, and PgBouncer'
	@echo 'make clean            remove what was built'

deps:
	@bash .ci/deps

bench-deps:
	@bash .ci/deps pgbouncer

build: deps
	$(CARGO) build $(LOCKED) --release --workspace --bins

demo: deps
	$(CARGO) build $(LOCKED) --release -p howdah-ctl -p howdah-sidecar -p howdah-proxy --bins
	$(TARGET_DIR)/release/howdahctl demo $(ARGS)

# The dev profile: `make check` has made its build scripts and macros already, and the dependencies are optimised in it too. The binaries come
# first, because tests of other crates run them.
test: deps
	$(CARGO) build $(LOCKED) --workspace --bins
	$(CARGO) test $(LOCKED) --workspace --no-fail-fast

check: deps
	$(CARGO) fmt --all --check
	$(CARGO) clippy $(LOCKED) --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS='-D warnings' $(CARGO) doc $(LOCKED) --workspace --no-deps --quiet
	@if command -v cargo-deny >/dev/null; then $(CARGO) deny --workspace check; \
	else echo 'note: cargo-deny is not installed, so licences and advisories are not checked (cargo install cargo-deny)'; fi

fix: deps
	$(CARGO) clippy --workspace --all-targets --fix --allow-dirty --allow-staged
	$(CARGO) fmt --all

bench: bench-deps
	$(CARGO) build $(LOCKED) --release --workspace --bins
	@mkdir -p $(RESULTS)
	$(TARGET_DIR)/release/howdah-bench compare $(COMPARE) --json $(RESULTS)/compare.json --svg $(RESULTS)/compare.svg
	$(TARGET_DIR)/release/howdah-bench failover $(FAILOVER) --json $(RESULTS)/failover.json
	$(TARGET_DIR)/release/howdah-bench failover --kind switchover $(FAILOVER) --json $(RESULTS)/failover-switchover.json
	@if [ "$$(id -u)" = 0 ]; then $(TARGET_DIR)/release/howdah-bench failover --kind cut $(FAILOVER) --json $(RESULTS)/failover-cut.json; \
	else echo 'note: not root, so no host is cut off (failover --kind cut)'; fi

# As root also partitions and full disks: the hosts are network namespaces then, the disks loop devices.
chaos: deps
	$(CARGO) build $(LOCKED) --release -p howdah-sidecar -p howdah-proxy -p howdah-tests --bins
	$(TARGET_DIR)/release/howdah-chaos --minutes $(MINUTES) --seed $(SEED) --nodes $(NODES) --report $(CHAOS)

clean:
	$(CARGO) clean
