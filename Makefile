# Every command that a developer or CI needs. `make` without a target lists the commands.

CARGO ?= cargo
PREFIX ?= /usr
DESTDIR ?=

# Installing packages, creating network namespaces and loading programs need root. Users other than
# root run these commands with sudo.
SUDO := $(shell [ "$$(id -u)" = 0 ] || command -v sudo)

SHARE = $(DESTDIR)$(PREFIX)/share/laminardb
DOCS = $(DESTDIR)$(PREFIX)/share/doc/laminar-xdp
BYTE_ORDER := $(shell printf '\001\000' | od -An -d | grep -qw 1 && echo bpfel || echo bpfeb)
DEFAULT_TARGET := $(shell sed -n 's/^default_target = "\(.*\)"/\1/p' bpf-prebuilt/manifest.toml)

# The folder of cargo's build output.
TARGET := $(or $(CARGO_TARGET_DIR),target)

LAMINARDB = examples/laminardb-ingest/Cargo.toml

# Without this line, `make -j` would run several apt or cargo commands at once, and their locks
# would block each other.
.NOTPARALLEL:

# bindgen loads libclang from LIBCLANG_PATH. The path must lead to the libclang of the pinned LLVM.
BUILD_TOOLS = LIBCLANG_PATH="$$(llvm-config-19 --libdir)" $(CARGO) run --quiet --locked --package build-tools --

.PHONY: help
help: ## List the targets
	@awk 'BEGIN { FS = ":.*## " } /^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: demo
demo: packages ## Show how datagrams are filtered and steered (root)
	$(CARGO) build --locked --target-dir $(TARGET) --package kernel-tests --example demo
	$(SUDO) $(TARGET)/debug/examples/demo

# Only Linux has XDP. Other platforms test only the crates that build there.
PLATFORM ?= $(shell uname -s)
ifeq ($(PLATFORM),Linux)
CRATES = --workspace
else
CRATES = $(addprefix --package ,build-tools generated-docs kernel-matrix laminar-xdp \
	laminar-xdp-prebuilt source-checks)
endif

.PHONY: test
test: $(if $(filter Linux,$(PLATFORM)),packages) ## Check formatting, run clippy and all tests that the platform and privileges allow
	$(CARGO) fmt --all --check
	$(CARGO) clippy --locked $(CRATES) --all-targets -- --deny warnings
	$(CARGO) clippy --locked --package laminar-xdp --no-default-features -- --deny warnings
	RUSTDOCFLAGS="$$RUSTDOCFLAGS --deny warnings" $(CARGO) doc --quiet --locked $(CRATES) --no-deps
	$(CARGO) test --locked $(CRATES)
ifeq ($(PLATFORM),Linux)
	# Build and test the loader as on a platform without XDP.
	RUSTFLAGS="--cfg laminar_xdp_unsupported --deny warnings" \
		RUSTDOCFLAGS="--cfg laminar_xdp_unsupported" \
		$(CARGO) test --locked --target-dir $(TARGET)/unsupported --package laminar-xdp
endif

.PHONY: api
api: packages ## Update loader/public-api.txt after an intended change of the public API
	$(CARGO) run --quiet --locked --package source-checks -- api

.PHONY: check
check: packages-bpf ## Check that the objects match bpf-src/ and were executed on the kernels that they claim
	clang-format-19 --dry-run --Werror bpf-src/*.c bpf-src/*.h bench/programs/*.c
	$(BUILD_TOOLS) check
	$(CARGO) run --quiet --locked --package kernel-matrix -- claims

.PHONY: bpf
bpf: packages-bpf ## Compile bpf-src/ into bpf-prebuilt/ if anything changed
	$(BUILD_TOOLS) bindings
	$(BUILD_TOOLS) bpf

# This is a separate build, because LaminarDB has about 350 dependencies. The first build takes
# several minutes.
.PHONY: laminardb
laminardb: packages ## Feed real datagrams into an embedded LaminarDB and check its query result (root)
	$(CARGO) fmt --manifest-path $(LAMINARDB) --check
	$(CARGO) build --locked --manifest-path $(LAMINARDB) --target-dir $(TARGET)/laminardb
	$(SUDO) $(TARGET)/laminardb/debug/laminardb-ingest

# BENCH contains the options of the benchmark. `make bench BENCH=--quick` only checks, in about a
# minute, that everything runs. BENCH="--only junk" measures one part, BENCH="--ports eth2 eth3"
# uses two network cards. BENCH=--help lists all options.
BENCH ?=
BENCH_PROGRAMS = $(TARGET)/bench/generator.o $(TARGET)/bench/minimal.o
$(TARGET)/bench/%.o: bench/programs/%.c
	@mkdir -p $(@D)
	clang-19 -g -O2 -Wall -Werror -mcpu=v3 -target bpf -I/usr/include/$$(gcc -print-multiarch) -c $< -o $@

.PHONY: bench
bench: packages-bench ## Compare the performance with alternatives, 7 minutes (root); BENCH=--help lists options
	$(MAKE) --no-print-directory $(BENCH_PROGRAMS)
	$(CARGO) build --quiet --locked --release --target-dir $(TARGET) --package bench
	$(SUDO) $(TARGET)/release/bench --programs $(TARGET)/bench --output $(TARGET)/bench/report $(BENCH)

.PHONY: matrix
matrix: packages-matrix ## Boot kernels under QEMU and run the tests on each; KERNELS="6.17 7.2" selects kernels
	$(CARGO) run --quiet --locked --package kernel-matrix -- run $(MATRIX) $(KERNELS)

# How many seconds `make fuzz` runs. The fuzzer starts from the corpus in model/corpus.
SECONDS ?= 60
FUZZ = $(TARGET)/fuzz
# -fno-sanitize=alignment: packets are aligned to 2 bytes only, as on a network card, so the
# program's accesses to wider fields are misaligned on purpose.
FUZZ_CC = clang-19 -g -O1 -Wall -Wno-unknown-pragmas -fsanitize=fuzzer-no-link,address,undefined \
	-fno-sanitize=alignment -fno-sanitize-recover=all -Imodel/host -Ibpf-src

.PHONY: fuzz
fuzz: packages-fuzz ## Fuzz the XDP program, compiled for the host, with libFuzzer; SECONDS=3600 runs longer
	mkdir -p $(FUZZ)/found
	$(FUZZ_CC) -c model/host/program.c -o $(FUZZ)/plain.o
	$(FUZZ_CC) -c model/host/program.c -o $(FUZZ)/frags.o -DLAMINAR_FRAGS
	$(FUZZ_CC) -fsanitize=fuzzer model/host/fuzz.c $(FUZZ)/plain.o $(FUZZ)/frags.o -o $(FUZZ)/fuzz
	$(FUZZ)/fuzz -max_total_time=$(SECONDS) -max_len=512 -timeout=5 -print_final_stats=1 \
		-artifact_prefix=$(FUZZ)/ $(FUZZ)/found model/corpus

# The checks that do not fit into the 40 minutes that .ci/run may take. If one of them fails, the
# others still run.
NIGHTLY_FUZZ_SECONDS ?= 3600
.PHONY: nightly nightly-matrix nightly-models nightly-fuzz nightly-bench
nightly: ## Run all kernels of the mirror, large models, an hour of fuzzing, all benchmarks; 2 hours (root)
	$(MAKE) --no-print-directory --keep-going nightly-matrix nightly-models nightly-fuzz nightly-bench
nightly-matrix:
	$(MAKE) --no-print-directory matrix MATRIX="--all --no-record"
# One test at a time, because a model needs up to 10 GB.
nightly-models:
	$(CARGO) test --locked --package protocol-model -- --ignored --nocapture --test-threads 1
nightly-fuzz:
	$(MAKE) --no-print-directory fuzz SECONDS=$(NIGHTLY_FUZZ_SECONDS)
nightly-bench:
	$(MAKE) --no-print-directory bench BENCH=

.PHONY: selection
selection: packages ## Show which object the loader selects on this kernel, in which mode, and why (root)
	$(CARGO) build --quiet --locked --target-dir $(TARGET) --package kernel-tests --example selection
	$(SUDO) $(TARGET)/debug/examples/selection

.PHONY: install
install: ## Install objects and manifest below $(DESTDIR)$(PREFIX)
	install -d "$(SHARE)" "$(DOCS)"
	install -m 644 bpf-prebuilt/*.o bpf-prebuilt/manifest.toml "$(SHARE)"
	ln -sf "laminar_xdp.$(DEFAULT_TARGET).$(BYTE_ORDER).o" "$(SHARE)/laminar_xdp.o"
	install -m 644 LICENSES/BSD-2-Clause.txt LICENSES/GPL-2.0-only.txt "$(DOCS)"

.PHONY: clean
clean: ## Remove the build output; the checked-in objects stay
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
