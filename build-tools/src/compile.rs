//! One object from C: clang, then llvm-strip of the same LLVM.
//!
//! Every flag is here because the objects must come out the same, byte for
//! byte, in any folder and on any machine with the pinned compiler.

use anyhow::{Context, Result};
use laminar_xdp_prebuilt::ByteOrder;
use xshell::cmd;

use crate::project::Project;
use crate::targets::Target;

pub struct Compiler {
    /// The command, `clang-19` unless the environment's CLANG names another.
    pub clang: String,
    /// `llvm-strip` with the same suffix.
    strip: String,
    /// As in `19.1.7`.
    pub version: String,
    /// Where this machine keeps `asm/types.h`; says nothing about the output.
    machine_includes: Option<String>,
}

impl Compiler {
    pub fn find(project: &Project) -> Result<Compiler> {
        let clang = std::env::var("CLANG").unwrap_or_else(|_| "clang-19".into());
        // `clang-19` and `/folder/clang-19` alike have `llvm-strip-19` beside them.
        let (folder, name) = clang.split_at(clang.rfind('/').map_or(0, |slash| slash + 1));
        let strip = format!("{folder}{}", name.replace("clang", "llvm-strip"));
        let shell = &project.shell;
        let banner = cmd!(shell, "{clang} --version").quiet().read().with_context(|| {
            format!(
                "{clang} does not run; `ci/install-packages bpf` installs what `make bpf` needs"
            )
        })?;
        let version = banner
            .split_whitespace()
            .skip_while(|word| *word != "version")
            .nth(1)
            .and_then(|version| version.split(['-', '+', '~']).next())
            .with_context(|| format!("{clang} --version names no version: {banner}"))?;
        let version = version.to_string();
        let machine = cmd!(shell, "cc -print-multiarch").quiet().read().unwrap_or_default();
        let machine_includes = (!machine.is_empty()).then(|| format!("-I/usr/include/{machine}"));
        Ok(Compiler { clang, strip, version, machine_includes })
    }

    /// The compiler as a manifest names it.
    pub fn name(&self) -> String {
        format!("clang {}", self.version)
    }

    /// The flags that shape the output, as a manifest lists them.
    pub fn flags(target: &Target, byte_order: ByteOrder) -> Vec<String> {
        let mut flags = vec![
            format!("--target={byte_order}"),
            // Left to its default, the instruction set changes with the compiler.
            format!("-mcpu={}", target.instruction_set),
            "-O2".into(),
            // BTF, which libbpf needs for the maps; the DWARF is stripped again.
            "-g".into(),
            // Paths stay relative to the checkout, so that a verifier log shows
            // source lines and no folder of the machine that compiled.
            "-fdebug-compilation-dir=.".into(),
            // Only linkers of native code read that table.
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
