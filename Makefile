# Everything a person or a machine does with this repository.
#
#   make test     what every change must pass; needs a Rust toolchain and
#                 Debian's python3, takes the rest from crates.io and PyPI
#   make server   the release binary: target/release/holdfast
#
# Longer runs: sim, model, mutants, cargo-mutants, loom, kills, faults, bench,
# fuzz, unsafe. Each says what it does below; short slices of sim, model, mutants and
# loom are part of `make test`.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := server

PYTHON ?= python3
VENV := .venv
PYTEST := $(VENV)/bin/pytest
TOOLS := target/tools
CARGO_DENY := $(TOOLS)/bin/cargo-deny
CARGO_DENY_VERSION := 0.20.2
CARGO_MUTANTS := $(TOOLS)/bin/cargo-mutants
CARGO_MUTANTS_VERSION := 27.1.0
CARGO_FUZZ = RUSTC_BOOTSTRAP=1 PATH=$(CURDIR)/$(TOOLS)/bin:$$PATH cargo fuzz
HOLDFAST := target/release/holdfast
JEPSEN := target/release/jepsen

# The reference server comes with its command line client from PyPI.
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)

FUZZ_SECONDS ?= 600
FUZZ_TARGETS := $(basename $(notdir $(wildcard fuzz/fuzz_targets/*.rs)))

SEEDS ?= 0..20000
JOBS ?= 2
MODEL_SECONDS ?= 300

STAGES := lint docs server unit mutants-short loom sim-short clients kills-short audit

.PHONY: test stages lint docs audit server unit clients kills-short kills lag bench storage fuzz calibrate clean
.PHONY: sim sim-short model mutants mutants-short cargo-mutants loom faults unsafe

# In the order in which a mistake shows fastest.
test: $(STAGES)

stages:
	@echo $(STAGES)

## Formatting and lints, warnings being errors; the server also without what
## only the simulator needs.
lint:
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --locked -- -D warnings
	cargo clippy --package holdfast --locked -- -D warnings
	cargo clippy --manifest-path tests/core/Cargo.toml --target-dir target/core \
	    --all-targets --locked -- -D warnings
	cargo clippy --manifest-path tests/disk/Cargo.toml --target-dir target/core \
	    --all-targets --locked -- -D warnings

## Every public item is documented, every link leads somewhere.
docs:
	RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --document-private-items --locked

## The binaries that the scenarios below run.
server:
	cargo build --release --workspace --locked

## Unit, transcript, crash and property tests, the house rules, and archives
## both ways with a real OpenBao.
unit: $(VENV)/installed
	cargo test --workspace --locked --no-fail-fast

## Threads of the node under loom: every interleaving within a bound. A
## workspace of its own, because loom replaces the standard library's primitives.
loom:
	cargo run --locked --manifest-path tests/loom/Cargo.toml --target-dir target/loom

## Whole clusters in simulation, one a seed: SEEDS=0..20000 JOBS=2. A failing
## seed is shrunk to a story; `jepsen sim --seed S --trace` tells any.
sim: server
	$(JEPSEN) sim --seeds $(SEEDS) --jobs $(JOBS)

## A slice of it; only the full campaign must have seen everything.
sim-short: server
	$(JEPSEN) sim --seeds 0..150 --jobs $(JOBS) --lenient

## Everything that a small cluster of production cores can do, each preset for
## at most MODEL_SECONDS; exits with 3 when one did not get to its end. Then
## figure 8, a volatile vote and the single-server bug of 2015 are planted: it
## must find them.
model: server
	$(JEPSEN) model --seconds $(MODEL_SECONDS)
	$(JEPSEN) mutants --layer model --only E1,E2,M1

## Every bug of the catalogue, planted: which layer of tests notices it first?
## MUTANTS=--resume goes on with a run that was interrupted.
mutants: server
	$(JEPSEN) mutants --specification --output target/mutants.md $(MUTANTS)

## A few of them, others every day.
mutants-short: server
	$(JEPSEN) mutants --check
	$(JEPSEN) mutants --rotating 2

## Every small change to the core that cargo-mutants can think of, on the core
## alone: about ten minutes. What survives its unit tests, transcripts and a few
## walks must be explained in jepsen/mutants/SURVIVORS.md.
cargo-mutants: $(CARGO_MUTANTS)
	cargo run --locked --manifest-path tests/core/Cargo.toml --target-dir target/core --bin mutants

$(CARGO_MUTANTS):
	CARGO_PROFILE_DEV_DEBUG=0 cargo install cargo-mutants@$(CARGO_MUTANTS_VERSION) \
	    --locked --debug --root $(TOOLS) --target-dir target/tools/build
	rm -rf target/tools/build

## The only unsafe code, src/disk, alone. Miri interprets what needs no file: the
## stores through raw pointers, aligned blocks, the disk in memory (it knows
## neither maps of files nor posix_fadvise; needs a nightly toolchain with the
## components miri and rust-src). Then all of it with real files and maps under
## AddressSanitizer.
unsafe:
	MIRIFLAGS=-Zmiri-disable-isolation cargo +nightly miri test --locked \
	    --manifest-path tests/disk/Cargo.toml --target-dir target/miri -- \
	    mapped:: blocks:: memory_disk append_cut crash_undoes power_cut
	RUSTC_BOOTSTRAP=1 RUSTFLAGS=-Zsanitizer=address cargo test --locked \
	    --manifest-path tests/disk/Cargo.toml --target-dir target/sanitized \
	    --target $$(rustc --print host-tuple)

## Real processes that are copied, wiped, removed, frozen, cut off, and whose
## files rot or lose what no sync covered: needs root, loop devices and network
## namespaces.
faults: server
	$(JEPSEN) identities
	$(JEPSEN) bridge
	$(JEPSEN) stall-disk
	$(JEPSEN) bit-flips
	$(JEPSEN) power-cut
	$(JEPSEN) power-cut --rounds 20 --wal-io mmap

## Real clients against real processes.
clients: server $(VENV)/installed
	$(PYTEST) tests/clients

## The same tests against OpenBao: proves the tests, not us.
calibrate: $(VENV)/installed
	HOLDFAST_SERVER=openbao $(PYTEST) tests/clients

## A short slice of each experiment with killed processes.
kills-short: server
	$(JEPSEN) kill-leader --rounds 2
	$(JEPSEN) kill-all --rounds 1
	$(JEPSEN) lag

## The full experiments.
kills: server
	$(JEPSEN) kill-leader --rounds 10
	$(JEPSEN) kill-all --rounds 10
	$(JEPSEN) lag

lag: server
	$(JEPSEN) lag

## Holdfast beside OpenBao on this machine; BENCH passes options.
bench: server $(VENV)/installed
	$(JEPSEN) bench --output target/bench.md $(BENCH)

## The log beside the device, raft-engine and okaywal, and what a million
## entries cost; STORAGE passes options. Its report goes to target/storage.md.
storage: server
	cargo build --release --locked --manifest-path jepsen/peers/Cargo.toml --target-dir target/peers
	$(JEPSEN) storage --directory target --output target/storage.md $(STORAGE)

## Every fuzz target for FUZZ_SECONDS, JOBS at a time, then a table of
## executions and edges. New inputs go to target/fuzz-corpus, what was found to
## fuzz/artifacts, logs beside the inputs. A stable compiler takes the
## sanitizer's flags with RUSTC_BOOTSTRAP; needs g++.
fuzz: $(TOOLS)/bin/cargo-fuzz
	$(CARGO_FUZZ) build
	$(MAKE) --no-print-directory --jobs $(JOBS) $(addprefix fuzz-,$(FUZZ_TARGETS))
	@awk -f fuzz/table.awk $(patsubst %,target/fuzz-corpus/%.log,$(FUZZ_TARGETS))

fuzz-%:
	mkdir -p target/fuzz-corpus/$*
	$(CARGO_FUZZ) run $* target/fuzz-corpus/$* fuzz/corpus/$* -- \
	    -max_total_time=$(FUZZ_SECONDS) -timeout=60 -rss_limit_mb=2048 -print_final_stats=1 \
	    > target/fuzz-corpus/$*.log 2>&1 || { tail -n 60 target/fuzz-corpus/$*.log; exit 1; }

$(TOOLS)/bin/cargo-fuzz:
	CARGO_PROFILE_DEV_DEBUG=0 cargo install cargo-fuzz@0.13.2 \
	    --locked --debug --root $(TOOLS) --target-dir target/tools/build
	rm -rf target/tools/build

## Licences, sources and bans of all dependencies, those of other platforms too
## (a build fetches only its own); ADVISORIES=1 also asks the RustSec database,
## which needs access to GitHub.
audit: $(CARGO_DENY)
	cargo fetch --locked
	$(CARGO_DENY) --offline check licenses bans sources
	$(if $(ADVISORIES),$(CARGO_DENY) check advisories)

# A debug build: compiled in a third of the time, and it runs for a second.
$(CARGO_DENY):
	CARGO_PROFILE_DEV_DEBUG=0 cargo install cargo-deny@$(CARGO_DENY_VERSION) \
	    --locked --debug --root $(TOOLS) --target-dir target/tools/build
	rm -rf target/tools/build

# Debian keeps ensurepip in a package of its own.
$(VENV)/installed: tests/clients/requirements.txt
	$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
	    { apt-get update && apt-get install -y --no-install-recommends python3-venv; }
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install --quiet --requirement tests/clients/requirements.txt
	touch $@

clean:
	cargo clean
	rm -rf $(VENV)
