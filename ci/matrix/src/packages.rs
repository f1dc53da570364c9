//! Debian packages of any suite and architecture, in a folder of our own.
//!
//! apt runs with a private configuration: the mirror that the system already uses,
//! signatures checked with Debian's keyring, and nothing of the system's changed.
//! A package is unpacked once, beside the others, under its name and checksum.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use laminar_xdp_prebuilt::sha256_hex;
use xshell::{Cmd, Shell, cmd};

use crate::kernels::Architecture;

const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";
/// Written when the lists of packages were fetched.
const STAMP: &str = "lists-fetched";
/// How long they serve before they are fetched again.
const LISTS_SERVE: Duration = Duration::from_secs(24 * 60 * 60);

/// apt for one architecture and some suites.
pub struct Packages {
    shell: Shell,
    architecture: Architecture,
    suites: Vec<String>,
    /// `lists`, `unpacked` and apt's own files.
    folder: PathBuf,
    /// What the last attempt to fetch the lists complained about.
    complaint: String,
}

/// A package as the signed lists describe it.
#[derive(Debug, Clone)]
pub struct Package {
    pub name: String,
    pub version: String,
    sha256: String,
    depends: String,
}

impl Packages {
    pub fn new(cache: &Path, architecture: Architecture, suites: &[&str]) -> Result<Packages> {
        let shell = Shell::new()?;
        let folder = cache.join(format!("{architecture}-{}", suites.join("+")));
        for part in ["lists/partial", "cache/archives/partial", "unpacked"] {
            fs::create_dir_all(folder.join(part))?;
        }
        let suites = suites.iter().map(|suite| suite.to_string()).collect();
        let mut packages =
            Packages { shell, architecture, suites, folder, complaint: String::new() };
        packages.configure()?;
        packages.fetch_lists()?;
        Ok(packages)
    }

    fn configure(&self) -> Result<()> {
        ensure!(fs::exists(KEYRING)?, "{KEYRING} is missing; install debian-archive-keyring");
        let (main, security) = mirrors(&self.shell)?;
        let mut sources = String::new();
        for suite in &self.suites {
            let mirror = if suite.ends_with("-security") { &security } else { &main };
            sources += &format!(
                "Types: deb\nURIs: {mirror}\nSuites: {suite}\nComponents: main\n\
                 Architectures: {}\nSigned-By: {KEYRING}\n\n",
                self.architecture
            );
        }
        // Another mirror's lists have other names.
        let file = self.folder.join("debian.sources");
        if fs::read_to_string(&file).ok().as_ref() != Some(&sources) {
            self.forget_lists()?;
            fs::write(file, sources)?;
        }
        // An empty status: what the system has installed plays no part.
        fs::write(self.folder.join("status"), "")?;
        let (folder, architecture) = (self.folder.display(), self.architecture);
        let configuration = format!(
            "Dir::State \"{folder}\";\n\
             Dir::State::Lists \"{folder}/lists\";\n\
             Dir::State::status \"{folder}/status\";\n\
             Dir::Cache \"{folder}/cache\";\n\
             Dir::Cache::pkgcache \"pkgcache.bin\";\n\
             Dir::Cache::srcpkgcache \"srcpkgcache.bin\";\n\
             Dir::Etc::SourceList \"{folder}/debian.sources\";\n\
             Dir::Etc::SourceParts \"/dev/null\";\n\
             Dir::Etc::Preferences \"/dev/null\";\n\
             Dir::Etc::PreferencesParts \"/dev/null\";\n\
             APT::Architecture \"{architecture}\";\n\
             APT::Architectures {{ \"{architecture}\"; }};\n\
             APT::Install-Recommends \"false\";\n\
             APT::Sandbox::User \"root\";\n\
             APT::Default-Release \"\";\n\
             APT::Get::AllowUnauthenticated \"false\";\n\
             Acquire::AllowInsecureRepositories \"false\";\n\
             Acquire::AllowDowngradeToInsecureRepositories \"false\";\n\
             #clear APT::Update::Pre-Invoke;\n\
             #clear APT::Update::Post-Invoke;\n\
             #clear APT::Update::Post-Invoke-Success;\n\
             #clear DPkg::Post-Invoke;\n\
             Acquire::Languages \"none\";\n\
             Acquire::Retries \"3\";\n\
             Acquire::IndexTargets::deb::DEP-11::DefaultEnabled \"false\";\n\
             Acquire::IndexTargets::deb::CNF::DefaultEnabled \"false\";\n"
        );
        Ok(fs::write(self.folder.join("apt.conf"), configuration)?)
    }

    fn apt<'a>(&self, command: Cmd<'a>) -> Cmd<'a> {
        // Read after the system's own configuration, which APT_CONFIG is not.
        command.arg("--config-file").arg(self.folder.join("apt.conf")).quiet()
    }

    /// Has the lists fetched again next time, because they led nowhere.
    pub fn forget_lists(&self) -> Result<()> {
        match fs::remove_file(self.folder.join(STAMP)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error.into()),
            _ => Ok(()),
        }
    }

    /// A list that cannot be fetched is no reason to stop: the one of yesterday may
    /// do, and if it does not, the package that is missing is named.
    fn fetch_lists(&mut self) -> Result<()> {
        let stamp = self.folder.join(STAMP);
        let age = fs::metadata(&stamp).ok().and_then(|stamp| stamp.modified().ok()?.elapsed().ok());
        if age.is_some_and(|age| age < LISTS_SERVE) {
            return Ok(());
        }
        let shell = &self.shell;
        let update = self.apt(cmd!(shell, "apt-get update -qq --error-on=any"));
        let output = update.ignore_status().output()?;
        match output.status.success() {
            true => fs::write(stamp, "")?,
            false => {
                self.complaint = String::from_utf8_lossy(&output.stderr).trim().into();
                eprintln!("warning: lists of {}: {}", self.suites.join(", "), self.complaint);
            }
        }
        Ok(())
    }

    /// The newest package whose name matches a regular expression, first, and those
    /// parts of it that come as packages of their own: what it depends on with a name
    /// that begins with one of `prefixes`. Mirrors lose packages, so one without its
    /// parts gives way to the next newest.
    pub fn newest(&self, pattern: &str, prefixes: &[&str]) -> Result<Vec<Package>> {
        let shell = &self.shell;
        let names = self.apt(cmd!(shell, "apt-cache search --names-only {pattern}")).read()?;
        let names = names.lines().filter_map(|line| line.split(' ').next());
        let mut packages: Vec<_> = names.map(|name| self.find(name)).collect::<Result<_>>()?;
        packages.sort_by_key(|package| numbers(&package.version));
        let mut missing = String::new();
        for package in packages.into_iter().rev() {
            let parts = package.dependencies(prefixes);
            let parts = parts.iter().map(|name| self.find(name)).collect::<Result<Vec<_>>>();
            match parts {
                Ok(parts) => return Ok([vec![package], parts].concat()),
                Err(error) => missing += &format!("\n{error:#}"),
            }
        }
        bail!(
            "no whole package of {} for {} is called {pattern}: the series has left the mirror, or \
             its list cannot be fetched; see ci/matrix/kernels.toml{missing}\n{}",
            self.suites.join(", "),
            self.architecture,
            self.complaint
        )
    }

    /// A package by name.
    pub fn find(&self, name: &str) -> Result<Package> {
        let shell = &self.shell;
        let record =
            self.apt(cmd!(shell, "apt-cache show --no-all-versions {name}")).ignore_stderr().read();
        // A name that others depend on has an empty record if nobody provides it.
        let record = record.ok().filter(|record| !record.is_empty());
        let record = record.with_context(|| {
            format!("{} has no package {name} {}", self.suites.join(", "), self.complaint)
        })?;
        let field = |field: &str| {
            let lines =
                record.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(": "));
            lines.unwrap_or_default().to_string()
        };
        let package = Package {
            name: name.into(),
            version: field("Version"),
            sha256: field("SHA256"),
            depends: field("Depends"),
        };
        ensure!(!package.sha256.is_empty(), "the list has no checksum of {name}");
        Ok(package)
    }

    /// The packages and everything that they depend on.
    pub fn with_dependencies(&self, names: &[&str]) -> Result<Vec<Package>> {
        let shell = &self.shell;
        let install = self.apt(cmd!(shell, "apt-get install --simulate -qq {names...}")).read();
        let plan = install.with_context(|| {
            format!("{} cannot give {names:?}; {}", self.suites.join(", "), self.complaint)
        })?;
        let installs =
            plan.lines().filter_map(|line| line.strip_prefix("Inst ")?.split(' ').next());
        installs.map(|name| self.find(name)).collect()
    }

    /// Downloads and unpacks a package, unless that was done before, and keeps the
    /// files whose names begin with one of `only` (all, if that is empty). Gives the
    /// folder.
    pub fn unpack(&self, package: &Package, only: &[&str]) -> Result<PathBuf> {
        let Package { name, version, sha256, .. } = package;
        let folder = self.folder.join(format!("unpacked/{name}_{version}_{}", &sha256[..12]));
        if folder.exists() {
            return Ok(folder);
        }
        eprintln!("fetching {name} {version}");
        let scratch = tempfile::tempdir_in(self.folder.join("unpacked"))?;
        let shell = &self.shell;
        let inside = shell.push_dir(scratch.path());
        let download = self.apt(cmd!(shell, "apt-get download -qq {name}={version}"));
        download.run().with_context(|| format!("download {name} {version}"))?;
        drop(inside);
        let archive = fs::read_dir(scratch.path())?.next().context("apt downloaded nothing")??;
        let archive = archive.path();
        let found = sha256_hex(&fs::read(&archive)?);
        if found != *sha256 {
            bail!(
                "{name} {version}: the download's SHA-256 is {found}, the signed list says {sha256}"
            );
        }
        let contents = scratch.path().join("contents");
        cmd!(shell, "dpkg-deb --extract {archive} {contents}").quiet().run()?;
        if !only.is_empty() {
            keep_only(&contents, only)?;
        }
        fs::rename(contents, &folder)?;
        Ok(folder)
    }

    /// Unpacks packages into one folder, as if they were installed there.
    pub fn unpack_together(&self, packages: &[Package]) -> Result<PathBuf> {
        let checksums: String = packages.iter().map(|package| package.sha256.as_str()).collect();
        let together = &sha256_hex(checksums.as_bytes())[..12];
        let folder = self.folder.join(format!("unpacked/together_{together}"));
        if folder.exists() {
            return Ok(folder);
        }
        let scratch = tempfile::tempdir_in(self.folder.join("unpacked"))?;
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

impl Package {
    /// The packages that it depends on whose names begin with one of `prefixes`.
    pub fn dependencies(&self, prefixes: &[&str]) -> Vec<String> {
        let names =
            self.depends.split([',', '|']).filter_map(|term| term.split_whitespace().next());
        let wanted = |name: &&str| prefixes.iter().any(|prefix| name.starts_with(prefix));
        names.filter(wanted).map(String::from).collect()
    }
}

/// The mirrors that the system uses for Debian and for its security updates.
fn mirrors(shell: &Shell) -> Result<(String, String)> {
    let uris = cmd!(shell, "apt-get update --print-uris").quiet().ignore_stderr().read()?;
    let mirror_of = |line: &'_ str| {
        let uri = line.strip_prefix('\'')?.split('\'').next()?;
        Some(uri.split_once("/dists/")?.0.to_string())
    };
    let mut mirrors = uris.lines().filter_map(mirror_of);
    let main = mirrors.clone().find(|mirror| mirror.ends_with("/debian"));
    let security = mirrors.find(|mirror| mirror.ends_with("/debian-security"));
    let main = main.context("apt is configured with no mirror of Debian")?;
    let security = security.unwrap_or_else(|| format!("{main}-security"));
    Ok((main, security))
}

fn keep_only(folder: &Path, prefixes: &[&str]) -> Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if entry.file_type()?.is_dir() {
            keep_only(&entry.path(), prefixes)?;
        } else if !prefixes.iter().any(|prefix| name.starts_with(prefix)) {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

/// The file whose name begins with `prefix`, somewhere in a package's folder.
pub fn find_file(folder: &Path, prefix: &str) -> Result<Option<PathBuf>> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let found = match entry.file_type()?.is_dir() {
            true => find_file(&entry.path(), prefix)?,
            false => {
                let begins = entry.file_name().to_string_lossy().starts_with(prefix);
                begins.then(|| entry.path())
            }
        };
        if found.is_some() {
            return Ok(found);
        }
    }
    Ok(None)
}

/// The numbers in a version, by which versions of one series compare.
fn numbers(version: &str) -> Vec<u64> {
    let digits = version.split(|c: char| !c.is_ascii_digit());
    digits.filter_map(|digits| digits.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_compare_by_their_numbers() {
        let newest = ["6.12.94-1~deb12u1", "6.12.117-1~deb12u1", "6.12.90-2~deb12u1"]
            .into_iter()
            .max_by_key(|version| numbers(version));
        assert_eq!(newest, Some("6.12.117-1~deb12u1"));
    }

    #[test]
    fn dependencies_are_found_by_prefix() {
        let package = Package {
            name: "linux-image-7".into(),
            version: "7".into(),
            sha256: String::new(),
            depends: "linux-binary-7 (= 7), kmod, a | linux-modules-7, linux-base".into(),
        };
        let found = package.dependencies(&["linux-binary-", "linux-modules-"]);
        assert_eq!(found, ["linux-binary-7", "linux-modules-7"]);
    }
}
