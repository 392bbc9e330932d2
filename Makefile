# Every verb does its own set-up on a fresh Debian 12: packages by apt when root, else it names what is missing.
# What is built lies in out/ as it would in a prefix: out/bin, out/lib/cloister.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help demo build kernel programs rootfs test lint bench fuzz install clean setup

PREFIX ?= /usr/local
OUT := out
TRIPLE := x86_64-unknown-linux-gnu
BUILT = $(or $(CARGO_TARGET_DIR),target)/$(TRIPLE)/release
# Static and at a fixed address: nothing to look up and nothing to relocate when a machine starts.
STATIC := -C target-feature=+crt-static -C relocation-model=static

help: ## this list
	@sed -n 's/^\([a-z]*\):.*## /\1 /p' Makefile | while read -r verb text; do printf '  make %-9s %s\n' "$$verb" "$$text"; done

demo: build ## a real text through a command in a VM, compared with this machine's own result
	@scripts/demo

build: kernel programs rootfs ## kernel, programs and root image, into out/

setup:
	@scripts/packages cc=gcc git ld=binutils /usr/include/stdlib.h=libc6-dev
	@command -v cargo >/dev/null || { echo 'missing: Rust 1.95 or newer, as `cargo` (https://rustup.rs)' >&2; exit 2; }

kernel: setup ## out/lib/cloister/vmlinux; built once for each configuration and source version
	@mkdir -p $(OUT)/lib/cloister
	@kernel-config/build.sh --output $(OUT)/lib/cloister/vmlinux

programs: setup ## the programs, into out/bin/
	@RUSTFLAGS='$(STATIC)' cargo build --locked --release --target $(TRIPLE) -p cloister -p cloister-vmm -p cloister-jailer -p cloister-file-server -p cloister-prober -p cloister-guest-agent
	@mkdir -p $(OUT)/bin
	@install -m 755 $(BUILT)/cloister $(BUILT)/cloister-vmm $(BUILT)/cloister-jailer $(BUILT)/cloister-file-server $(BUILT)/cloister-prober $(OUT)/bin/

rootfs: programs ## out/lib/cloister/rootfs.cpio, with the supervisor as /init
	@rootfs/build.sh --supervisor $(BUILT)/cloister-supervisor --output $(OUT)/lib/cloister/rootfs.cpio

test: build ## every test; whole-system tests in the lab where this machine's KVM can't run Linux
	@tests/run

lint: setup ## formatting, clippy, shell scripts, licences and bans
	@cargo fmt --all --check
	@cargo clippy --locked --workspace --all-targets -- -D warnings
	@cargo clippy --locked --workspace --test system --test residue --test here --test examples -- -D warnings
	@scripts/lint-others

bench: build ## figures against QEMU's microvm in one run, into out/bench/
	@benches/run
	@benches/fork/run
	@benches/teams/run
	@benches/shares/run
	@benches/jail/run
	@benches/egress/run

fuzz: setup ## each fuzz target for a bounded time
	@fuzz/run

install: build ## into PREFIX (/usr/local)
	@install -D -m 755 -t $(DESTDIR)$(PREFIX)/bin $(OUT)/bin/cloister $(OUT)/bin/cloister-vmm $(OUT)/bin/cloister-jailer $(OUT)/bin/cloister-file-server $(OUT)/bin/cloister-prober
	@install -D -m 644 -t $(DESTDIR)$(PREFIX)/lib/cloister $(OUT)/lib/cloister/vmlinux $(OUT)/lib/cloister/rootfs.cpio
	@$(OUT)/bin/cloister completion bash | install -D -m 644 /dev/stdin $(DESTDIR)$(PREFIX)/share/bash-completion/completions/cloister

clean: ## out/ and what cargo built; caches outside stay
	@rm -rf $(OUT)
	@cargo clean --quiet
