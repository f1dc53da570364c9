//! Downloads packages and unpacks them in a cache.
//!
//! Each package is downloaded and unpacked only once. Its folder in the cache is named after the
//! package, its version and its checksum.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use laminar_xdp_prebuilt::sha256_hex;
use xshell::{Shell, cmd};

use crate::apt::{Apt, Package};
use crate::kernels::Architecture;

/// The packages of one architecture and some suites.
pub struct Packages {
    pub apt: Apt,
    shell: Shell,
    unpacked: PathBuf,
}

impl Packages {
    pub fn new(cache: &Path, architecture: Architecture, suites: &[&str]) -> Result<Packages> {
        let folder = cache.join(format!("{architecture}-{}", suites.join("+")));
        let unpacked = folder.join("unpacked");
        fs::create_dir_all(&unpacked)?;
        let apt = Apt::new(&folder, architecture, suites)?;
        Ok(Packages { apt, shell: Shell::new()?, unpacked })
    }

    /// Downloads and unpacks a package, and returns its folder. Keeps only the files whose names
    /// begin with one of `prefixes`, or all files if `prefixes` is empty.
    pub fn unpack(&self, package: &Package, prefixes: &[&str]) -> Result<PathBuf> {
        let Package { name, version, sha256, .. } = package;
        let folder = self.unpacked.join(format!("{name}_{version}_{}", &sha256[..12]));
        if folder.exists() {
            return Ok(folder);
        }
        eprintln!("fetching {name} {version}");
        let scratch = tempfile::tempdir_in(&self.unpacked)?;
        let shell = &self.shell;
        let inside = shell.push_dir(scratch.path());
        self.apt.download(shell, package)?;
        drop(inside);
        let archive = fs::read_dir(scratch.path())?.next().context("apt downloaded nothing")??;
        let archive = archive.path();
        let found = sha256_hex(&fs::read(&archive)?);
        ensure!(
            found == *sha256,
            "{name} {version}: the SHA-256 of the download is {found}, but the signed list has {sha256}"
        );
        let contents = scratch.path().join("contents");
        cmd!(shell, "dpkg-deb --extract {archive} {contents}").quiet().run()?;
        if !prefixes.is_empty() {
            keep_files(&contents, prefixes)?;
        }
        fs::rename(contents, &folder)?;
        Ok(folder)
    }

    /// Unpacks packages into one folder, as if they were installed there.
    pub fn unpack_together(&self, packages: &[Package]) -> Result<PathBuf> {
        let checksums: String = packages.iter().map(|package| package.sha256.as_str()).collect();
        let together = &sha256_hex(checksums.as_bytes())[..12];
        let folder = self.unpacked.join(format!("together_{together}"));
        if folder.exists() {
            return Ok(folder);
        }
        let scratch = tempfile::tempdir_in(&self.unpacked)?;
        let contents = scratch.path().join("contents");
        fs::create_dir(&contents)?;
        let shell = &self.shell;
        for package in packages {
            let from = self.unpack(package, &[])?;
            cmd!(shell, "cp --archive {from}/. {contents}").quiet().run()?;
            fs::remove_dir_all(from)?;
        }
        fs::rename(contents, &folder)?;
        Ok(folder)
    }
}

fn keep_files(folder: &Path, prefixes: &[&str]) -> Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if entry.file_type()?.is_dir() {
            keep_files(&entry.path(), prefixes)?;
        } else if !prefixes.iter().any(|prefix| name.starts_with(prefix)) {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

/// Finds a file whose name begins with `prefix`, in `folder` or in a folder below.
pub fn find_file(folder: &Path, prefix: &str) -> Result<Option<PathBuf>> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let found = match entry.file_type()?.is_dir() {
            true => find_file(&entry.path(), prefix)?,
            false => {
                let matches = entry.file_name().to_string_lossy().starts_with(prefix);
                matches.then(|| entry.path())
            }
        };
        if found.is_some() {
            return Ok(found);
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_kept_and_found_by_prefix() {
        let folder = tempfile::tempdir().unwrap();
        let modules = folder.path().join("lib/modules/net");
        fs::create_dir_all(&modules).unwrap();
        for name in ["veth.ko.xz", "vxlan.ko.xz"] {
            fs::write(modules.join(name), "").unwrap();
        }
        keep_files(folder.path(), &["veth.ko"]).unwrap();
        let found = |prefix| find_file(folder.path(), prefix).unwrap();
        assert_eq!(found("veth.ko"), Some(modules.join("veth.ko.xz")));
        assert_eq!((found("vxlan.ko"), found("vmlinuz")), (None, None));
    }
}
