//! The initial RAM file system that a kernel boots into.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use cpio::newc::Builder;
use object::elf::{DT_NEEDED, FileHeader64};
use object::read::elf::{FileHeader, ProgramHeader};
use object::{Endianness, FileKind};

use crate::kernels::Architecture;
use crate::userland::Userland;

/// The beginning of the last line that `/init` prints. The exit code of the tests follows on the
/// same line.
pub const END: &str = "kernel-matrix: end of tests, exit code";
/// A separator line on the console. `/init` prints this line three times: before the output of
/// `selection`, before the output of `selection --json`, and before the tests.
pub const SELECTION: &str = "kernel-matrix: selection";

/// Returns the folder of the checkout on this machine. The image contains the objects at the same
/// path, because the path is compiled into the tests.
pub fn checkout() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).expect("ci/matrix is in a checkout")
}

/// Writes the image for one kernel to the file `to`. `veth` is the file of that kernel's veth
/// module.
pub fn build(
    architecture: Architecture,
    userland: &Userland,
    veth: &Path,
    to: &Path,
) -> Result<()> {
    let triple = architecture.triple();
    let mut image = Image { triple, entries: Vec::new(), folders: BTreeSet::new() };
    for folder in ["proc", "sys", "dev", "tmp", "run", "etc"] {
        image.folder(Path::new("/").join(folder).as_path());
    }
    let module = veth
        .file_name()
        .context("the path of the module has no name")?
        .to_string_lossy()
        .into_owned();
    image.add("/init", init(&module).into_bytes(), 0o755);
    image.add(&format!("/{module}"), fs::read(veth)?, 0o644);
    for (name, program) in [
        ("busybox", &userland.busybox),
        ("ip", &userland.ip),
        ("kernel-tests", &userland.tests),
        ("selection", &userland.selection),
    ] {
        image.program(&userland.root, name, program)?;
    }
    let objects = checkout().join("bpf-prebuilt");
    image.folder(&checkout().join("kernel-tests"));
    for entry in fs::read_dir(&objects)? {
        let path = entry?.path();
        if path.is_file() {
            image.add(&path.display().to_string(), fs::read(&path)?, 0o644);
        }
    }
    image.write(to)
}

/// Returns the script `/init`, which the kernel starts. The script's output goes to the console.
/// Panics of the tests and kernel warnings could interrupt the result lines of the tests, so the
/// script prints both only after the tests.
fn init(module: &str) -> String {
    let checkout = checkout().display();
    format!(
        "#!/bin/busybox sh\n\
         /bin/busybox --install -s /bin\n\
         export PATH=/bin LD_LIBRARY_PATH=/lib RUST_BACKTRACE=0 LAMINAR_XDP_DATAGRAMS=1500\n\
         mount -t proc proc /proc\n\
         mount -t sysfs sys /sys\n\
         mount -t devtmpfs dev /dev\n\
         mount -t bpf bpf /sys/fs/bpf\n\
         case {module} in\n\
         *.xz) unxz -c /{module} > /veth.ko ;;\n\
         *.ko) : ;;\n\
         esac\n\
         insmod /veth.ko\n\
         cd '{checkout}'\n\
         echo '{SELECTION}'\n\
         selection\n\
         echo '{SELECTION}'\n\
         selection --json\n\
         echo '{SELECTION}'\n\
         dmesg -n 1\n\
         kernel-tests --test-threads 1 --color never 2>/errors\n\
         code=$?\n\
         cat /errors\n\
         dmesg -r | grep '^<[0-3]>'\n\
         echo '{END}' $code\n\
         poweroff -f\n"
    )
}

struct Entry {
    path: String,
    content: Vec<u8>,
    mode: u32,
}

struct Image {
    /// The name of Debian's library folders for the architecture.
    triple: &'static str,
    entries: Vec<Entry>,
    folders: BTreeSet<PathBuf>,
}

impl Image {
    fn folder(&mut self, path: &Path) {
        self.folders.extend(path.ancestors().map(PathBuf::from));
    }

    fn add(&mut self, path: &str, content: Vec<u8>, permissions: u32) {
        if let Some(folder) = Path::new(path).parent() {
            self.folder(folder);
        }
        if !self.entries.iter().any(|entry| entry.path == path) {
            self.entries.push(Entry { path: path.into(), content, mode: 0o100_000 | permissions });
        }
    }

    /// Adds a program as `/bin/<name>`, with its ELF interpreter and all libraries that the program
    /// needs directly or indirectly. `root` is the folder that contains the libraries.
    fn program(&mut self, root: &Path, name: &str, file: &Path) -> Result<()> {
        let content = fs::read(file).with_context(|| file.display().to_string())?;
        let (mut libraries, interpreter) = needs(&content)?;
        self.add(&format!("/bin/{name}"), content, 0o755);
        if let Some(interpreter) = interpreter {
            let library = interpreter.rsplit('/').next().unwrap_or_default();
            self.add(&interpreter, fs::read(find_library(root, self.triple, library)?)?, 0o755);
        }
        while let Some(library) = libraries.pop() {
            let path = format!("/lib/{library}");
            if self.entries.iter().any(|entry| entry.path == path) {
                continue;
            }
            let content = fs::read(find_library(root, self.triple, &library)?)?;
            libraries.extend(needs(&content)?.0);
            self.add(&path, content, 0o755);
        }
        Ok(())
    }

    fn write(self, to: &Path) -> Result<()> {
        let mut archive = Vec::new();
        let entry = |path: &str, mode| {
            let path = path.trim_start_matches('/');
            Builder::new(path).mode(mode).nlink(1)
        };
        for folder in self.folders.iter().filter(|folder| folder.parent().is_some()) {
            let path = folder.display().to_string();
            archive = entry(&path, 0o040_755).write(archive, 0).finish()?;
        }
        for Entry { path, content, mode } in &self.entries {
            let mut writer = entry(path, *mode).write(archive, content.len().try_into()?);
            std::io::Write::write_all(&mut writer, content)?;
            archive = writer.finish()?;
        }
        let archive = cpio::newc::trailer(archive)?;
        fs::write(to, archive).with_context(|| to.display().to_string())
    }
}

/// Returns the libraries that an ELF file needs directly, and its interpreter.
fn needs(elf: &[u8]) -> Result<(Vec<String>, Option<String>)> {
    if FileKind::parse(elf)? != FileKind::Elf64 {
        bail!("not a 64-bit ELF file");
    }
    let header = FileHeader64::<Endianness>::parse(elf)?;
    let endian = header.endian()?;
    let mut interpreter = None;
    for segment in header.program_headers(endian, elf)? {
        if let Some(path) = segment.interpreter(endian, elf)? {
            interpreter = Some(String::from_utf8(path.to_vec())?);
        }
    }
    let sections = header.sections(endian, elf)?;
    let dynamic = sections.dynamic_table(endian, elf)?;
    let mut libraries = Vec::new();
    for entry in dynamic.iter().filter(|entry| entry.tag == DT_NEEDED) {
        libraries.push(String::from_utf8(dynamic.string(entry)?.to_vec())?);
    }
    Ok((libraries, interpreter))
}

fn find_library(root: &Path, triple: &str, name: &str) -> Result<PathBuf> {
    for folder in ["lib", "usr/lib", "lib64", "usr/lib64"] {
        let folder = root.join(folder);
        let paths = [folder.join(triple).join(name), folder.join(name)];
        if let Some(path) = paths.into_iter().find(|path| path.exists()) {
            return Ok(path);
        }
    }
    bail!("no {name} in {}", root.display())
}
