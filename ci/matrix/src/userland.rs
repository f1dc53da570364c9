//! The programs inside a virtual machine: the tests, compiled for the machine's architecture, and
//! the commands that the tests and `/init` call.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use xshell::{Shell, cmd};

use crate::apt::Unavailable;
use crate::kernels::{Architecture, Kernels};
use crate::mirror::Mirror;

/// The programs for one architecture.
pub struct Userland {
    /// The root of the file system that contains the programs' libraries.
    pub root: PathBuf,
    pub busybox: PathBuf,
    pub ip: PathBuf,
    pub tests: PathBuf,
    /// The example that prints the selection.
    pub selection: PathBuf,
}

/// The packages from which the programs for one architecture are built.
pub struct UserlandPackages {
    root: PathBuf,
    busybox: PathBuf,
    ip: PathBuf,
    /// A Rust compiler for the architecture; `None` if the installed Rust is used.
    compiler: Option<PathBuf>,
}

impl UserlandPackages {
    pub fn fetch(
        mirror: &Mirror,
        kernels: &Kernels,
        architecture: Architecture,
    ) -> Result<UserlandPackages> {
        let packages = mirror.packages(architecture, &kernels.userland_suite)?;
        match architecture {
            // For amd64, this machine's Rust compiles the tests, and the tests are linked with this
            // machine's libraries.
            Architecture::Amd64 => {
                ensure!(
                    cfg!(target_arch = "x86_64"),
                    "the tests for amd64 are compiled with this machine's Rust: run the matrix on x86-64"
                );
                let busybox = packages.unpack(&packages.apt.find("busybox-static")?, &[])?;
                let busybox = busybox.join("bin/busybox");
                let ip = ["/bin/ip", "/sbin/ip"].into_iter().map(PathBuf::from);
                let ip = ip.into_iter().find(|ip| ip.exists());
                let ip = ip.context("ip is missing: install iproute2")?;
                Ok(UserlandPackages { root: "/".into(), busybox, ip, compiler: None })
            }
            Architecture::S390x => {
                let names = ["busybox-static", "iproute2", "libelf-dev", "zlib1g-dev"];
                let root = packages.unpack_together(&packages.apt.with_dependencies(&names)?)?;
                let compiler = Some(rust(mirror, &kernels.rust_suite, architecture)?);
                let (busybox, ip) = (root.join("bin/busybox"), root.join("bin/ip"));
                Ok(UserlandPackages { root, busybox, ip, compiler })
            }
        }
    }

    /// Compiles the tests.
    pub fn build(self) -> Result<Userland> {
        let UserlandPackages { root, busybox, ip, compiler } = self;
        let (shell, target) = match compiler {
            None => (Shell::new()?, &[][..]),
            Some(compiler) => {
                let shell = cross_environment(&compiler, &root)?;
                (shell, &["--target", "s390x-unknown-linux-gnu"][..])
            }
        };
        let tests = cargo(&shell, "kernel", &["test", "--no-run", "--test", "kernel"], target)?;
        let selection = cargo(&shell, "selection", &["build", "--example", "selection"], target)?;
        Ok(Userland { root, busybox, ip, tests, selection })
    }
}

/// Runs cargo and returns the executable `name` that it built. The build uses optimisations,
/// because the emulated machine is slow.
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

/// Unpacks Debian's Rust compiler with a standard library for another architecture, because the
/// rustup of this machine may not have that library. Returns a script that runs this compiler on
/// the C library of the same Debian suite, not on this machine's.
fn rust(mirror: &Mirror, suite: &str, architecture: Architecture) -> Result<PathBuf> {
    let here = mirror.packages(Architecture::Amd64, suite)?;
    let there = mirror.packages(architecture, suite)?;
    let (rustc, library) = (here.apt.find("rustc")?, there.apt.find("libstd-rust-dev")?);
    if rustc.version != library.version {
        // In a suite under development, two architectures may have different versions of a package
        // for a while.
        bail!(Unavailable(format!(
            "{suite} has rustc {}, but version {} of its standard library for {architecture}",
            rustc.version, library.version
        )));
    }
    let mut compiler = here.apt.with_dependencies(&["libstd-rust-dev"])?;
    compiler.push(rustc);
    let root = here.unpack_together(&compiler)?;
    let triple = format!("usr/lib/rustlib/{architecture}-unknown-linux-gnu");
    let library = there.unpack(&library, &[])?.join(&triple);
    // Write the link and the script in every run. Both contain the path of the cache, and the cache
    // may have moved since the compiler was unpacked.
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

/// Returns a shell in which cargo builds for s390x.
fn cross_environment(compiler: &Path, root: &Path) -> Result<Shell> {
    let shell = Shell::new()?;
    let pkg_config = root.join("usr/lib/s390x-linux-gnu/pkgconfig");
    let linker_flags = format!("-Clink-arg=--sysroot={}", root.display());
    shell.set_var("RUSTC", compiler);
    shell.set_var("CC_s390x_unknown_linux_gnu", "s390x-linux-gnu-gcc");
    shell.set_var("AR_s390x_unknown_linux_gnu", "s390x-linux-gnu-ar");
    shell.set_var("CARGO_TARGET_S390X_UNKNOWN_LINUX_GNU_LINKER", "s390x-linux-gnu-gcc");
    // This variable overrides RUSTFLAGS, which the caller may have set for this machine.
    shell.set_var("CARGO_ENCODED_RUSTFLAGS", linker_flags);
    shell.set_var("PKG_CONFIG_ALLOW_CROSS", "1");
    shell.set_var("PKG_CONFIG_LIBDIR", pkg_config);
    shell.set_var("PKG_CONFIG_SYSROOT_DIR", root);
    // If two compilers shared a target folder, cargo would rebuild everything at each switch
    // between the compilers.
    let target = std::env::var("CARGO_TARGET_DIR").unwrap_or_else(|_| "target".into());
    shell.set_var("CARGO_TARGET_DIR", format!("{target}/matrix/s390x"));
    Ok(shell)
}
