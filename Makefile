# Every target can be repeated. `make` alone lists them.
SHELL := /bin/bash
export PATH := $(PATH):$(HOME)/.cargo/bin
PLUGIN := weaveworks/net-plugin:latest
HOSTS ?= 3
LAB := tests/lab/lab.sh
# Benchmarks measure what rootfs-build/build.sh makes.
TARGET = $(shell rustc -vV | sed -n 's/^host: //p')
AS_SHIPPED := RUSTFLAGS="-C target-feature=+crt-static"

.PHONY: help deps plugin install uninstall push check unit lab-test test manual page-test lab lab-down demo figures bench bench-ipam bench-dns fuzz

help: ## what can be made
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | column -t -s $$'\t'

deps: ## install what building and testing need (Debian)
	rootfs-build/deps.sh

plugin: ## build the static binary and the bundle in plugin/
	rootfs-build/build.sh

# A ready binary (BINARY=) is installed without building anything.
install: plugin $(if $(BINARY),,manual) ## create and enable the plugin on this machine's engine (SETTINGS="WEAVE_PEERS=..."), install the weave command
	rootfs-build/install.sh $(PLUGIN) $(SETTINGS)

uninstall: ## undo install
	rootfs-build/uninstall.sh $(PLUGIN)

push: plugin ## push the plugin to REGISTRY=host[:port]
	rootfs-build/push.sh "$(REGISTRY)" $(PLUGIN)

check: ## formatting, lints, documentation
	cargo fmt --check
	cargo clippy --locked --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --locked --no-deps --document-private-items

unit: ## unit tests, simulations and tests in network namespaces (as root)
	cargo test --locked

lab-test: plugin ## tests on real engines (ENGINE=20.10|26|28, TEST=part of a name)
	tests/lab/run.sh $(TEST)

test: unit lab-test ## all tests

# As the plugin is built, so that what was built for that serves again.
manual: ## write man pages and shell completions to target/manual
	rm -rf target/manual
	$(AS_SHIPPED) cargo run --release --locked --target $(TARGET) --example manual target/manual

page-test: ## look at the status page in Chromium, if there is one; pictures go to target/page
	cargo test --locked --lib control::browser -- --nocapture

figures: plugin ## measure against Docker's overlay, side by side
	tests/lab/figures.sh
	tests/lab/services_figures.sh

bench-ipam: ## measure how fast addresses are handed out, and what a large ring costs (as root)
	$(AS_SHIPPED) cargo bench --locked --target $(TARGET) --bench ipam

bench-dns: ## measure how fast names are answered, and how soon other hosts know them (with dnsperf)
	$(AS_SHIPPED) cargo bench --locked --target $(TARGET) --bench dns

# WireGuard in Rust, from the registry, is measured too if it can be built.
bench: plugin ## measure the datapath and attaching containers against other networks (as root); writes benches/RESULTS.md
	-cargo install --quiet --locked --root target/tools gotatun-cli@0.10.2
	PATH="$(CURDIR)/target/tools/bin:$$PATH" $(AS_SHIPPED) cargo bench --locked --target $(TARGET) --bench bench

fuzz: ## run every fuzz target for FUZZ_SECONDS (60) each (needs nightly Rust and cargo-fuzz)
	cd fuzz && for target in $$(cargo +nightly fuzz list); do \
	  cargo +nightly fuzz run "$$target" -- -max_total_time=$(or $(FUZZ_SECONDS),60) || exit 1; done

lab: plugin ## HOSTS engines on this machine, the plugin on each, to play with
	$(LAB) up $(HOSTS)
	$(LAB) image
	$(LAB) plugin all install WEAVE_PEERS="$(foreach n,$(shell seq $(HOSTS)),192.168.77.$(n))"
	@$(LAB) ps
	@echo "a shell on host 1: $(LAB) shell 1     everything else: $(LAB) help     stop: make lab-down"

lab-down: ## stop the lab, leave nothing
	$(LAB) down

demo: plugin ## two engines, one network: containers on both ping each other
	tests/lab/demo.sh
