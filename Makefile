# Every target can be repeated. `make` alone lists them.
SHELL := /bin/bash
export PATH := $(PATH):$(HOME)/.cargo/bin
PLUGIN := weaveworks/net-plugin:latest
HOSTS ?= 3
LAB := tests/lab/lab.sh

.PHONY: help deps plugin install uninstall push check unit lab-test test lab lab-down demo figures

help: ## what can be made
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | column -t -s $$'\t'

deps: ## install what building and testing need (Debian)
	rootfs-build/deps.sh

plugin: ## build the static binary and the bundle in plugin/
	rootfs-build/build.sh

install: plugin ## create and enable the plugin on this machine's engine (SETTINGS="WEAVE_PEERS=..."), install the weave command
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

figures: plugin ## measure against Docker's overlay, side by side
	tests/lab/figures.sh

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
