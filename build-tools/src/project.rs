//! The checkout, and the paths of its files and folders.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use xshell::Shell;

/// The checkout. All paths are relative to its root, because compilers write paths into objects.
pub struct Project {
    /// A shell whose current folder is the checkout's root.
    pub shell: Shell,
}

impl Project {
    pub const SOURCES: &str = "bpf-src";
    pub const ABI_HEADER: &str = "bpf-src/laminar_abi.h";
    pub const TARGETS: &str = "bpf-src/targets.toml";
    pub const PRODUCER: &str = "build-tools/src";
    pub const ARTIFACT: &str = "bpf-prebuilt";
    pub const MANIFEST: &str = "bpf-prebuilt/manifest.toml";
    pub const ARTIFACT_CRATE: &str = "bpf-prebuilt/src";
    pub const BINDINGS: &str = "bpf-prebuilt/src/abi.rs";
    pub const EMBEDDED: &str = "bpf-prebuilt/src/embedded.rs";
    /// Objects are compiled here. Only verified objects reach `ARTIFACT`.
    pub const SCRATCH: &str = "target/bpf";

    pub fn find() -> Result<Project> {
        let crate_folder = Path::new(env!("CARGO_MANIFEST_DIR"));
        let root = crate_folder.parent().context("build-tools has no parent folder")?;
        let shell = Shell::new()?;
        shell.change_dir(root);
        ensure!(
            shell.path_exists(Project::TARGETS),
            "{} is not a checkout of laminar-xdp: {} is missing",
            root.display(),
            Project::TARGETS
        );
        Ok(Project { shell })
    }

    pub fn root(&self) -> PathBuf {
        self.shell.current_dir()
    }

    /// Returns the files in a folder that have one of `extensions`, ordered by name. Leaves out
    /// folders. Also leaves out hidden files, because editors create hidden files.
    pub fn files(&self, folder: &str, extensions: &[&str]) -> Result<Vec<PathBuf>> {
        let mut files = self.shell.read_dir(folder)?;
        files.retain(|path| {
            let hidden = path.file_name().is_none_or(|name| name.as_encoded_bytes()[0] == b'.');
            let matches = path.extension().is_some_and(|e| extensions.iter().any(|x| e == *x));
            matches && !hidden && path.is_file()
        });
        Ok(files)
    }

    /// Returns a file's bytes; `None` if the file does not exist.
    pub fn read_if_exists(&self, path: &str) -> Result<Option<Vec<u8>>> {
        match self.shell.path_exists(path) {
            true => Ok(Some(self.shell.read_binary_file(path)?)),
            false => Ok(None),
        }
    }
}
