# `make` lists the targets. Each target installs what it needs, where it is absent.

.DEFAULT_GOAL := help
.PHONY: help demo soak test test-edge bench lint image manifests setup

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
	@.ci/setup puma passenger unicorn fuse init archivers minisign moto charts prometheus jobs browser nextest $(ROOTS) $(PODS)
	$(if $(PODS),.ci/pod-images)
	.ci/alone cargo nextest run --workspace

test-edge: ## every test with a real Puma once more on Puma 6.6 and on the newest, 8.0 or later (as root)
	@.ci/setup puma passenger unicorn fuse init archivers minisign jobs nextest trixie sid rails
	for puma in trixie sid; do \
		RIG_TERMINATIONS=100 RIG_OTHERS=50 RIG_PUMA=$$puma .ci/alone cargo nextest run --workspace -E $(REAL_PUMA) || exit 1; \
	done

bench: ## every benchmark, or one with BENCH=name; writes target/bench/<name>.json
	@.ci/setup puma bench $(filter trixie,$(ROOTS))
	.ci/alone cargo bench $(if $(BENCH),--bench $(BENCH),--benches)

soak: ## deploys beside under load, with kills that a seed decides: DEPLOYS=200 SEED=1
	@.ci/setup puma
	DEPLOYS=$(or $(DEPLOYS),200) SEED=$(or $(SEED),1) .ci/alone cargo test --test e2e e2e_beside_soak -- --nocapture

lint: ## formatting, clippy, rustdoc, and the licences and sources of dependencies
	@.ci/setup deny
	cargo fmt --all --check
	cargo clippy --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS='-D warnings' cargo doc --workspace --no-deps --document-private-items
	cargo deny check licenses bans sources

image: ## the image of docker/Dockerfile, as target/image/pitstop.tar, tried in pods; needs no registry (as root)
	@.ci/setup nextest pods image
	.ci/image
	.ci/image-check target/image/pitstop.tar
	cargo nextest run --workspace --no-run
	.ci/pod-images target/image/pitstop.tar
	.ci/alone cargo nextest run --test e2e -E 'test(/^pods::/)'

manifests: ## what is made of the chart: its README's table, its schema, the plain manifests, the kustomize component
	@.ci/setup charts nextest
	PITSTOP_WRITE=1 cargo nextest run --test chart -E 'test(/^(documented|plain)/)'

setup: ## install all that the other targets need (Debian 12, as root)
	@.ci/setup puma passenger unicorn fuse init archivers minisign moto charts prometheus jobs browser nextest deny trixie rails kustomize pods image
