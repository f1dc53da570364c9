//! Compiles one object with clang, and strips it with llvm-strip of the same LLVM.
//!
//! The flags make the objects reproducible: the pinned compiler produces the same bytes in every
//! folder and on every machine.

use anyhow::{Context, Result};
use laminar_xdp_prebuilt::ByteOrder;
use xshell::cmd;

use crate::project::Project;
use crate::targets::Target;

pub struct Compiler {
    /// The command, from the environment variable CLANG. Default: `clang-19`.
    pub clang: String,
    /// `llvm-strip` of the same LLVM.
    strip: String,
    /// For example `19.1.7`.
    pub version: String,
    /// The option that adds the include folder with this machine's `asm/types.h`. The option does
    /// not change the output.
    machine_includes: Option<String>,
}

impl Compiler {
    pub fn find(project: &Project) -> Result<Compiler> {
        let clang = std::env::var("CLANG").unwrap_or_else(|_| "clang-19".into());
        // `llvm-strip-19` is in the same folder as `clang-19`, even if CLANG is a path.
        let (folder, name) = clang.split_at(clang.rfind('/').map_or(0, |slash| slash + 1));
        let strip = format!("{folder}{}", name.replace("clang", "llvm-strip"));
        let shell = &project.shell;
        let banner = cmd!(shell, "{clang} --version").quiet().read().with_context(|| {
            format!("{clang} does not run; install the compiler with `ci/install-packages bpf`")
        })?;
        let version = banner
            .split_whitespace()
            .skip_while(|word| *word != "version")
            .nth(1)
            .and_then(|version| version.split(['-', '+', '~']).next())
            .with_context(|| format!("no version in the output of {clang} --version: {banner}"))?;
        let version = version.to_string();
        let machine = cmd!(shell, "cc -print-multiarch").quiet().read().unwrap_or_default();
        let machine_includes = (!machine.is_empty()).then(|| format!("-I/usr/include/{machine}"));
        Ok(Compiler { clang, strip, version, machine_includes })
    }

    /// The compiler's name and version for the manifest.
    pub fn name(&self) -> String {
        format!("clang {}", self.version)
    }

    /// The flags that change the output. The manifest records them.
    pub fn flags(target: &Target, byte_order: ByteOrder) -> Vec<String> {
        let mut flags = vec![
            format!("--target={byte_order}"),
            // Without this flag, the instruction set depends on the compiler's version.
            format!("-mcpu={}", target.instruction_set),
            "-O2".into(),
            // libbpf needs BTF for the maps, and clang emits BTF only with `-g`. llvm-strip removes
            // the DWARF that `-g` also adds.
            "-g".into(),
            // Makes paths relative to the checkout. The objects then contain source lines for the
            // verifier's log, but no folder of the build machine.
            "-fdebug-compilation-dir=.".into(),
            // Leaves out the address-significance table, because only linkers of native code use
            // it.
            "-fno-addrsig".into(),
            "-Wall".into(),
            "-Wextra".into(),
            "-Werror".into(),
        ];
        flags.extend(target.defines.iter().map(|define| format!("-D{define}")));
        flags
    }

    /// Compiles the programs for one target and byte order.
    pub fn compile(
        &self,
        project: &Project,
        target: &Target,
        byte_order: ByteOrder,
    ) -> Result<Vec<u8>> {
        let Compiler { clang, strip, machine_includes, .. } = self;
        let shell = &project.shell;
        let root = project.root();
        let source = target.source();
        let flags = Compiler::flags(target, byte_order);
        let object = format!("{}/{}", Project::SCRATCH, target.file(byte_order));
        shell.create_dir(Project::SCRATCH)?;
        cmd!(shell, "{clang} {flags...} -ffile-prefix-map={root}=. {machine_includes...} -c {source} -o {object}")
            .quiet()
            .run()?;
        cmd!(shell, "{strip} --strip-debug {object}").quiet().run()?;
        Ok(shell.read_binary_file(&object)?)
    }
}
