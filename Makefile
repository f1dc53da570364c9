# The front door: every command that a person or CI needs.
# `make` alone lists them.

CARGO ?= cargo
PREFIX ?= /usr
DESTDIR ?=

# Root installs packages, makes namespaces and loads programs; everybody else
# asks for it where it is needed.
SUDO := $(shell [ "$$(id -u)" = 0 ] || command -v sudo)

SHARE = $(DESTDIR)$(PREFIX)/share/laminardb
DOCS = $(DESTDIR)$(PREFIX)/share/doc/laminar-xdp
BYTE_ORDER := $(shell printf '\001\000' | od -An -d | grep -qw 1 && echo bpfel || echo bpfeb)
DEFAULT_TARGET := $(shell sed -n 's/^default_target = "\(.*\)"/\1/p' bpf-prebuilt/manifest.toml)

# Where cargo puts what it builds.
TARGET := $(or $(CARGO_TARGET_DIR),target)

LAMINARDB = examples/laminardb-ingest/Cargo.toml

# apt and cargo take turns.
.NOTPARALLEL:

# bindgen loads the pinned libclang.
BUILD_TOOLS = LIBCLANG_PATH="$$(llvm-config-19 --libdir)" $(CARGO) run --quiet --locked --package build-tools --

.PHONY: help
help: ## List the targets
	@awk 'BEGIN { FS = ":.*## " } /^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: demo
demo: packages ## Filter and steer real datagrams in front of your eyes (root)
	$(CARGO) build --locked --target-dir $(TARGET) --package kernel-tests --example demo
	$(SUDO) $(TARGET)/debug/examples/demo

# Only Linux has XDP. Other platforms test the crates that build there.
PLATFORM ?= $(shell uname -s)
ifeq ($(PLATFORM),Linux)
CRATES = --workspace
else
CRATES = $(addprefix --package ,build-tools kernel-matrix laminar-xdp laminar-xdp-prebuilt source-checks)
endif

.PHONY: test
test: $(if $(filter Linux,$(PLATFORM)),packages) ## Formatting, clippy and all tests that your platform and privileges allow
	$(CARGO) fmt --all --check
	$(CARGO) clippy --locked $(CRATES) --all-targets -- --deny warnings
	$(CARGO) clippy --locked --package laminar-xdp --no-default-features -- --deny warnings
	RUSTDOCFLAGS="$$RUSTDOCFLAGS --deny warnings" $(CARGO) doc --quiet --locked $(CRATES) --no-deps
	$(CARGO) test --locked $(CRATES)
ifeq ($(PLATFORM),Linux)
	# Builds and tests the loader as a platform without XDP does.
	RUSTFLAGS="--cfg laminar_xdp_unsupported --deny warnings" \
		RUSTDOCFLAGS="--cfg laminar_xdp_unsupported" \
		$(CARGO) test --locked --target-dir $(TARGET)/unsupported --package laminar-xdp
endif

.PHONY: api
api: packages ## Write loader/public-api.txt after an intended change of the public API
	$(CARGO) run --quiet --locked --package source-checks -- api

.PHONY: check
check: packages-bpf ## Fail if the objects are not what the sources give, or claim too much
	clang-format-19 --dry-run --Werror bpf-src/*.c bpf-src/*.h bench/programs/*.c
	$(BUILD_TOOLS) check
	$(CARGO) run --quiet --locked --package kernel-matrix -- claims

.PHONY: bpf
bpf: packages-bpf ## Compile what changed in bpf-src/ into bpf-prebuilt/
	$(BUILD_TOOLS) bindings
	$(BUILD_TOOLS) bpf

# LaminarDB's some 350 crates are built apart: for minutes, the first time.
.PHONY: laminardb
laminardb: packages ## Feed an embedded LaminarDB with real datagrams and compare its answer (root)
	$(CARGO) fmt --manifest-path $(LAMINARDB) --check
	$(CARGO) build --locked --manifest-path $(LAMINARDB) --target-dir $(TARGET)/laminardb
	$(SUDO) $(TARGET)/laminardb/debug/laminardb-ingest

# `make bench BENCH=--quick` shows in less than a minute that it runs, BENCH="--only junk"
# measures one part, BENCH="--ports eth2 eth3" two network cards; BENCH=--help says more.
BENCH ?=
BENCH_PROGRAMS = $(TARGET)/bench/generator.o $(TARGET)/bench/minimal.o
$(TARGET)/bench/%.o: bench/programs/%.c
	@mkdir -p $(@D)
	clang-19 -g -O2 -Wall -Werror -mcpu=v3 -target bpf -I/usr/include/$$(gcc -print-multiarch) -c $< -o $@

.PHONY: bench
bench: packages-bench ## Measure against all there is, 7 minutes (root); BENCH=--quick, =--help
	$(MAKE) --no-print-directory $(BENCH_PROGRAMS)
	$(CARGO) build --quiet --locked --release --target-dir $(TARGET) --package bench
	$(SUDO) $(TARGET)/release/bench --programs $(TARGET)/bench --output $(TARGET)/bench/report $(BENCH)

.PHONY: matrix
matrix: packages-matrix ## Boot kernels under QEMU and test on each; KERNELS="6.17 7.2" names others
	$(CARGO) run --quiet --locked --package kernel-matrix -- run $(MATRIX) $(KERNELS)

# How long `make fuzz` takes; its corpus is model/corpus.
SECONDS ?= 60
FUZZ = $(TARGET)/fuzz
# Packets are aligned to 2 bytes, as on a card; the program knows.
FUZZ_CC = clang-19 -g -O1 -Wall -Wno-unknown-pragmas -fsanitize=fuzzer-no-link,address,undefined \
	-fno-sanitize=alignment -fno-sanitize-recover=all -Imodel/host -Ibpf-src

.PHONY: fuzz
fuzz: packages-fuzz ## Have libFuzzer try the program on the host; SECONDS=3600 for longer
	mkdir -p $(FUZZ)/found
	$(FUZZ_CC) -c model/host/program.c -o $(FUZZ)/plain.o
	$(FUZZ_CC) -c model/host/program.c -o $(FUZZ)/frags.o -DLAMINAR_FRAGS
	$(FUZZ_CC) -fsanitize=fuzzer model/host/fuzz.c $(FUZZ)/plain.o $(FUZZ)/frags.o -o $(FUZZ)/fuzz
	$(FUZZ)/fuzz -max_total_time=$(SECONDS) -max_len=512 -timeout=5 -print_final_stats=1 \
		-artifact_prefix=$(FUZZ)/ $(FUZZ)/found model/corpus

# What does not fit into the 40 minutes of .ci/run. A step that fails does not stop the
# others.
NIGHTLY_FUZZ_SECONDS ?= 3600
.PHONY: nightly nightly-matrix nightly-fuzz nightly-bench
nightly: ## All kernels of the mirror, an hour of fuzzing, all measurements; 2 hours (root)
	$(MAKE) --no-print-directory --keep-going nightly-matrix nightly-fuzz nightly-bench
nightly-matrix:
	$(MAKE) --no-print-directory matrix MATRIX="--all --no-record"
nightly-fuzz:
	$(MAKE) --no-print-directory fuzz SECONDS=$(NIGHTLY_FUZZ_SECONDS)
nightly-bench:
	$(MAKE) --no-print-directory bench BENCH=

.PHONY: selection
selection: packages ## Show which object serves on this kernel, in which mode, and why (root)
	$(CARGO) build --quiet --locked --target-dir $(TARGET) --package kernel-tests --example selection
	$(SUDO) $(TARGET)/debug/examples/selection

.PHONY: install
install: ## Install objects and manifest; DESTDIR= and PREFIX= as usual
	install -d "$(SHARE)" "$(DOCS)"
	install -m 644 bpf-prebuilt/*.o bpf-prebuilt/manifest.toml "$(SHARE)"
	ln -sf "laminar_xdp.$(DEFAULT_TARGET).$(BYTE_ORDER).o" "$(SHARE)/laminar_xdp.o"
	install -m 644 LICENSES/BSD-2-Clause.txt LICENSES/GPL-2.0-only.txt "$(DOCS)"

.PHONY: clean
clean: ## Remove what was built; the checked-in objects stay
	$(CARGO) clean
	rm -rf target/bpf

.PHONY: packages packages-bench packages-bpf packages-fuzz packages-matrix
packages:
	@SUDO="$(SUDO)" ci/install-packages build
packages-bpf:
	@SUDO="$(SUDO)" ci/install-packages build bpf
packages-bench:
	@SUDO="$(SUDO)" ci/install-packages build bench
packages-fuzz:
	@SUDO="$(SUDO)" ci/install-packages build fuzz
packages-matrix:
	@SUDO="$(SUDO)" ci/install-packages build matrix
