# `make` lists the targets. Each target installs what it needs, where it is absent.

.DEFAULT_GOAL := help
.PHONY: help demo test test-edge bench lint setup

# Tests that say "no Puma" mean it, though another may run on this machine: where root may do that,
# they see only the processes that they start, and none of those outlives them. The shell is their init:
# it reaps orphans, as a pod's pause process does.
ALONE = $(shell [ "$$(id -u)" = 0 ] && unshare --pid --fork --mount-proc true 2>/dev/null \
	&& echo "unshare --pid --fork --mount-proc --kill-child sh -c '\"\$$@\"; exit \$$?' init")

# Pumas of other versions run in roots of their own, which only root can make and enter.
TRIXIE = $(shell [ "$$(id -u)" = 0 ] && echo trixie)
REAL_PUMA = 'binary(/^(rig$$|puma_|e2e_)/) | test(/puma_real/)'

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 18

demo: ## real Puma under load: good, bad and crashed deploys, then the end of the pod
	@.ci/setup puma
	cargo build --bin pitstop --example demo
	cargo run --quiet --example demo

test: ## every test, the ones with a real Puma too
	@.ci/setup puma fuse init archivers moto nextest $(TRIXIE)
	$(ALONE) cargo nextest run --workspace

test-edge: ## every test with a real Puma once more on Puma 6.6 and on the newest, 8.0 or later (as root)
	@.ci/setup puma fuse init archivers nextest trixie sid
	for puma in trixie sid; do \
		RIG_TERMINATIONS=100 RIG_PUMA=$$puma $(ALONE) cargo nextest run --workspace -E $(REAL_PUMA) || exit 1; \
	done

bench: ## every benchmark, or one with BENCH=name; writes target/bench/<name>.json
	@.ci/setup puma bench
	$(ALONE) cargo bench $(if $(BENCH),--bench $(BENCH),--benches)

lint: ## formatting, clippy, rustdoc, and the licences and sources of dependencies
	@.ci/setup deny
	cargo fmt --all --check
	cargo clippy --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS='-D warnings' cargo doc --workspace --no-deps --document-private-items
	cargo deny check licenses bans sources

setup: ## install all that the other targets need (Debian 12, as root)
	@.ci/setup puma fuse init archivers moto nextest deny trixie
