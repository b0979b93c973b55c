# `make` lists the targets. Each target installs what it needs, where it is absent.

.DEFAULT_GOAL := help
.PHONY: help demo soak fuzz fuzz-targets reliability test test-edge bench lint image release reproducible manifests setup

# Pumas of other versions run in roots of their own, which only root can make and enter.
ROOTS = $(shell [ "$$(id -u)" = 0 ] && echo trixie rails kustomize)
# So do pods, in containers; their images have Pumas of their own.
PODS = $(shell [ "$$(id -u)" = 0 ] && echo pods)
REAL_PUMA = '(binary(e2e) - test(/^pods::/)) | test(/puma_real/)'

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 18

demo: ## real Puma under load: good, bad and crashed deploys, then the end of the pod
	@.ci/setup puma
	cargo build --bin pitstop --example demo
	cargo run --quiet --example demo

test: ## every test, the ones with a real Puma too
	@.ci/setup puma passenger unicorn nginx fuse init archivers minisign moto charts prometheus manual jobs browser nextest $(ROOTS) $(PODS)
	$(if $(PODS),.ci/pod-images)
	.ci/alone cargo nextest run --workspace

test-edge: ## every test with a real Puma once more on Puma 6.6 and on the newest, 8.0 or later, and each fault at each step (as root)
	@.ci/setup puma passenger unicorn nginx fuse init archivers minisign jobs nextest trixie sid rails
	for puma in trixie sid; do \
		RIG_TERMINATIONS=100 RIG_OTHERS=50 RIG_PUMA=$$puma .ci/alone cargo nextest run --workspace -E $(REAL_PUMA) || exit 1; \
	done
	RIG_EVERY=1 .ci/alone cargo nextest run --test disk --test e2e -E 'test(/^(faults|requests)::|killed_at_each_step/)'

bench: ## every benchmark, or one with BENCH=name; writes target/bench/<name>.json
	@.ci/setup puma bench $(filter trixie,$(ROOTS))
	.ci/alone cargo bench $(if $(BENCH),--bench $(BENCH),--benches)

soak: ## a pod under load, with deploys and faults that a seed decides: DURATION=1h SEED=1, or DEPLOYS=200 MODES=beside FAULTS=agent,candidate ODD=0; then planted files, archives and floods of connections (as root)
	@.ci/setup puma archivers nextest
	.ci/alone cargo test --test e2e e2e_soak -- --nocapture
	.ci/alone cargo nextest run --test disk --test commands -E 'test(/^(plants|linked|unpack|odd|exhaust)::|flood::/)'

fuzz: ## bytes at random for each parser, for so long each: SECONDS=60 (by coverage: fuzz/Cargo.toml)
	@.ci/setup nextest
	FUZZ_SECONDS=$(or $(SECONDS),60) cargo nextest run --lib -E 'test(/fuzz_/)'

reliability: ## kills, errors, hangs and losses of power at each step, and a soak (DURATION=1h); writes how often into docs/reliability.md (as root)
	@.ci/setup puma fuse nextest
	.ci/alone cargo nextest run --test disk --test e2e -E 'test(/^(faults|requests|signed::memory)::|killed_at_each_step|e2e_soak/)'
	PITSTOP_WRITE=1 cargo nextest run --test docs -E 'test(/reliability/)'

fuzz-targets: ## compiles the targets of cargo-fuzz (fuzz/), as far as that goes without a nightly toolchain
	@.ci/setup libfuzzer
	cp Cargo.lock fuzz/Cargo.lock
	cargo check --manifest-path fuzz/Cargo.toml --target-dir target

lint: ## formatting, clippy, rustdoc, and the licences, sources and advisories of dependencies
	@.ci/setup deny
	cargo fmt --all --check
	cargo clippy --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS='-D warnings' cargo doc --workspace --no-deps --document-private-items
	cargo deny check licenses bans sources
	.ci/advisories

image: ## the image of docker/Dockerfile, as target/image/pitstop.tar, tried in pods; needs no registry (as root)
	@.ci/setup nextest pods image
	.ci/image
	.ci/image-check target/image/pitstop.tar
	cargo nextest run --workspace --no-run
	.ci/pod-images target/image/pitstop.tar
	.ci/alone cargo nextest run --test e2e -E 'test(/^pods::/)'

release: ## image, packaged chart, program, man pages, completions, SBOM, checksums in target/release-VERSION; tried (as root)
	@.ci/setup nextest charts manual archivers pods image
	.ci/release
	.ci/release-check target/release-$(shell sed -n 's/^version = "\(.*\)"/\1/p;/^version/q' Cargo.toml)

reproducible: ## builds the static program in two places and compares the bytes; PROGRAM=file compares one build with that file
	@.ci/setup
	.ci/reproducible $(PROGRAM)

manifests: ## what is made of the chart: its README's table, its schema, the plain manifests, the kustomize component
	@.ci/setup charts nextest
	PITSTOP_WRITE=1 cargo nextest run --test chart -E 'test(/^(documented|plain)/)'

setup: ## install all that the other targets need (Debian 12, as root)
	@.ci/setup puma passenger unicorn nginx fuse init archivers minisign moto charts prometheus manual jobs browser nextest deny libfuzzer trixie rails kustomize pods image
