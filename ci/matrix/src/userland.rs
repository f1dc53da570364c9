//! What runs inside a virtual machine beside the kernel: the tests, compiled for its
//! architecture, and the few commands that they call.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use xshell::{Shell, cmd};

use crate::kernels::{Architecture, Kernels};
use crate::packages::Packages;

/// Programs of one architecture.
pub struct Userland {
    /// Where their libraries are.
    pub root: PathBuf,
    pub busybox: PathBuf,
    pub ip: PathBuf,
    pub tests: PathBuf,
    /// The example that prints the selection.
    pub selection: PathBuf,
}

impl Userland {
    pub fn prepare(
        cache: &Path,
        kernels: &Kernels,
        architecture: Architecture,
    ) -> Result<Userland> {
        let packages = Packages::new(cache, architecture, &[&kernels.userland_suite])?;
        match architecture {
            // This machine's own libraries, which the tests are linked with.
            Architecture::Amd64 => {
                ensure!(
                    cfg!(target_arch = "x86_64"),
                    "the tests for amd64 are built with the machine's own compiler: run the matrix \
                     on x86-64"
                );
                let busybox = packages.unpack(&packages.find("busybox-static")?, &[])?;
                let (tests, selection) = build(&Shell::new()?, &[])?;
                let ip = ["/bin/ip", "/sbin/ip"].into_iter().map(PathBuf::from);
                let ip =
                    ip.into_iter().find(|ip| ip.exists()).context("ip is missing: iproute2")?;
                let busybox = busybox.join("bin/busybox");
                Ok(Userland { root: "/".into(), busybox, ip, tests, selection })
            }
            Architecture::S390x => {
                let names = ["busybox-static", "iproute2", "libelf-dev", "zlib1g-dev"];
                let root = packages.unpack_together(&packages.with_dependencies(&names)?)?;
                let compiler = rust(cache, &kernels.rust_suite, architecture)?;
                let shell = cross_environment(&compiler, &root)?;
                let (tests, selection) = build(&shell, &["--target", "s390x-unknown-linux-gnu"])?;
                let (busybox, ip) = (root.join("bin/busybox"), root.join("bin/ip"));
                Ok(Userland { root, busybox, ip, tests, selection })
            }
        }
    }
}

/// Builds the kernel tests and the example.
fn build(shell: &Shell, target: &[&str]) -> Result<(PathBuf, PathBuf)> {
    let tests = cargo(shell, "kernel", &["test", "--no-run", "--test", "kernel"], target)?;
    let selection = cargo(shell, "selection", &["build", "--example", "selection"], target)?;
    Ok((tests, selection))
}

/// Runs cargo and gives the executable that it built. Optimised: emulation makes every
/// instruction count.
fn cargo(shell: &Shell, name: &str, command: &[&str], target: &[&str]) -> Result<PathBuf> {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".into());
    let flags = ["--quiet", "--locked", "--release", "--package", "kernel-tests"];
    let format = "--message-format=json-render-diagnostics";
    let messages = cmd!(shell, "{cargo} {command...} {flags...} {format} {target...}");
    let messages = messages.quiet().read().with_context(|| format!("compile {name}"))?;
    let messages = messages.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let mut artifacts = messages.filter(|message| message["target"]["name"] == name);
    let executable = artifacts.find_map(|message| Some(message["executable"].as_str()?.into()));
    executable.with_context(|| format!("cargo built no {name}"))
}

/// A Rust compiler with a standard library for another architecture, which rustup
/// need not have: Debian's, in a folder, started through the C library beside it.
fn rust(cache: &Path, suite: &str, architecture: Architecture) -> Result<PathBuf> {
    let here = Packages::new(cache, Architecture::Amd64, &[suite])?;
    let there = Packages::new(cache, architecture, &[suite])?;
    let (rustc, library) = (here.find("rustc")?, there.find("libstd-rust-dev")?);
    ensure!(
        rustc.version == library.version,
        "{suite} has rustc {}, but its standard library for {architecture} is {}; try again when \
         the suite has both of one version",
        rustc.version,
        library.version
    );
    let mut compiler = here.with_dependencies(&["libstd-rust-dev"])?;
    compiler.push(rustc);
    let root = here.unpack_together(&compiler)?;
    let triple = format!("usr/lib/rustlib/{architecture}-unknown-linux-gnu");
    let library = there.unpack(&library, &[])?.join(&triple);
    // Both name this folder, which may have moved since.
    let (link, script) = (root.join(&triple), root.join("rustc-here"));
    fs::remove_file(&link).ok();
    std::os::unix::fs::symlink(library, link)?;
    let root = root.display();
    let text = format!(
        "#!/bin/sh\n\
         exec '{root}/usr/lib64/ld-linux-x86-64.so.2' \\\n\
         \t--library-path '{root}/usr/lib/x86_64-linux-gnu' \\\n\
         \t'{root}/usr/bin/rustc' --sysroot '{root}/usr' \"$@\"\n"
    );
    fs::write(&script, text)?;
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755))?;
    Ok(script)
}

/// A shell in which cargo builds for s390x.
fn cross_environment(compiler: &Path, root: &Path) -> Result<Shell> {
    let shell = Shell::new()?;
    let pkg_config = root.join("usr/lib/s390x-linux-gnu/pkgconfig");
    let linker_flags = format!("-Clink-arg=--sysroot={}", root.display());
    shell.set_var("RUSTC", compiler);
    shell.set_var("CC_s390x_unknown_linux_gnu", "s390x-linux-gnu-gcc");
    shell.set_var("AR_s390x_unknown_linux_gnu", "s390x-linux-gnu-ar");
    shell.set_var("CARGO_TARGET_S390X_UNKNOWN_LINUX_GNU_LINKER", "s390x-linux-gnu-gcc");
    // Whatever flags the caller has for its own machine.
    shell.set_var("CARGO_ENCODED_RUSTFLAGS", linker_flags);
    shell.set_var("PKG_CONFIG_ALLOW_CROSS", "1");
    shell.set_var("PKG_CONFIG_LIBDIR", pkg_config);
    shell.set_var("PKG_CONFIG_SYSROOT_DIR", root);
    // Another compiler's output goes nowhere near this machine's own.
    let target = std::env::var("CARGO_TARGET_DIR").unwrap_or_else(|_| "target".into());
    shell.set_var("CARGO_TARGET_DIR", format!("{target}/matrix/s390x"));
    Ok(shell)
}
