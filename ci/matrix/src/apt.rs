//! apt with a private configuration, for one architecture and some suites.
//!
//! It uses the mirror that the system uses, and checks signatures with Debian's keyring.
//! It changes nothing of the system's.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use xshell::{Cmd, Shell, cmd};

use crate::kernels::Architecture;

const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";
/// The file whose modification time is that of the last successful update of the lists.
const STAMP: &str = "lists-fetched";
/// Older package lists are fetched again.
const MAX_LIST_AGE: Duration = Duration::from_secs(24 * 60 * 60);

pub struct Apt {
    shell: Shell,
    architecture: Architecture,
    suites: String,
    /// The folder of the configuration, the package lists and apt's caches.
    folder: PathBuf,
    /// Whether this process tried to fetch the lists.
    is_updated: bool,
    /// Whether the last update of the lists failed.
    has_update_failed: bool,
}

/// A package as the signed list describes it.
#[derive(Debug, Clone, Default)]
pub struct Package {
    pub name: String,
    pub version: String,
    pub sha256: String,
    depends: String,
}

/// An error, or the context of one: the mirror does not have something. The text is one
/// line without the mirror's name, because it may become a part of the documentation.
#[derive(Debug)]
pub struct Unavailable(pub String);

impl fmt::Display for Unavailable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Apt {
    /// Configures apt in `folder`, and fetches package lists that are missing or old.
    pub fn new(folder: &Path, architecture: Architecture, suites: &[&str]) -> Result<Apt> {
        for part in ["lists/partial", "cache/archives/partial"] {
            fs::create_dir_all(folder.join(part))?;
        }
        let mut apt = Apt {
            shell: Shell::new()?,
            architecture,
            suites: suites.join(", "),
            folder: folder.into(),
            is_updated: false,
            has_update_failed: false,
        };
        apt.configure(suites)?;
        apt.update()?;
        Ok(apt)
    }

    fn configure(&self, suites: &[&str]) -> Result<()> {
        ensure!(fs::exists(KEYRING)?, "{KEYRING} is missing; install debian-archive-keyring");
        let (main, security) = mirrors(&self.shell)?;
        let mut sources = String::new();
        for suite in suites {
            let mirror = if suite.ends_with("-security") { &security } else { &main };
            sources += &format!(
                "Types: deb\nURIs: {mirror}\nSuites: {suite}\nComponents: main\n\
                 Architectures: {}\nSigned-By: {KEYRING}\n\n",
                self.architecture
            );
        }
        // The files of the package lists are named after the mirror.
        let file = self.folder.join("debian.sources");
        if fs::read_to_string(&file).ok().as_ref() != Some(&sources) {
            self.forget_lists()?;
            fs::write(file, sources)?;
        }
        // The status is empty, so that dependencies do not depend on this system.
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

    fn command<'a>(&self, command: Cmd<'a>) -> Cmd<'a> {
        // apt reads a file given by this option after the system's configuration, and one
        // given by APT_CONFIG before it.
        command.arg("--config-file").arg(self.folder.join("apt.conf")).quiet()
    }

    /// Lists that cannot be fetched are no error, because the old ones may suffice.
    fn update(&mut self) -> Result<()> {
        let stamp = self.folder.join(STAMP);
        let age = fs::metadata(&stamp).ok().and_then(|stamp| stamp.modified().ok()?.elapsed().ok());
        if age.is_some_and(|age| age < MAX_LIST_AGE) {
            return Ok(());
        }
        let shell = &self.shell;
        let update = self.command(cmd!(shell, "apt-get update -qq --error-on=any"));
        let output = update.ignore_status().output()?;
        self.is_updated = true;
        self.has_update_failed = !output.status.success();
        if self.has_update_failed {
            let error = String::from_utf8_lossy(&output.stderr);
            eprintln!("warning: no new package lists of {}: {}", self.suites, error.trim());
        } else {
            fs::write(stamp, "")?;
        }
        Ok(())
    }

    /// Whether this process tried to fetch the lists, so that newer ones cannot be had.
    pub fn is_updated(&self) -> bool {
        self.is_updated
    }

    /// Makes the next [`Apt`] in this folder fetch the lists.
    pub fn forget_lists(&self) -> Result<()> {
        match fs::remove_file(self.folder.join(STAMP)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error.into()),
            _ => Ok(()),
        }
    }

    /// Returns the names of the packages that match a regular expression.
    ///
    /// # Errors
    /// If there is none, and the lists could not be fetched.
    pub fn search(&self, pattern: &str) -> Result<Vec<String>> {
        let shell = &self.shell;
        let names = self.command(cmd!(shell, "apt-cache search --names-only {pattern}")).read()?;
        let names = names.lines().filter_map(|line| line.split(' ').next());
        let names: Vec<_> = names.map(String::from).collect();
        if names.is_empty() && self.has_update_failed {
            let Apt { suites, architecture, .. } = self;
            let list = format!("the package list of {suites} for {architecture}");
            bail!(Unavailable(format!("{list} cannot be updated")));
        }
        Ok(names)
    }

    /// Returns the newest version of each of these packages, without those that the suites
    /// do not have.
    pub fn show(&self, names: &[String]) -> Result<BTreeMap<String, Package>> {
        if names.is_empty() {
            return Ok(BTreeMap::new());
        }
        let shell = &self.shell;
        let show = cmd!(shell, "apt-cache show --no-all-versions {names...}");
        // A missing package makes the command fail, and it describes the others.
        let stanzas = self.command(show).ignore_stderr().ignore_status().read()?;
        Ok(parse_stanzas(&stanzas).map(|package| (package.name.clone(), package)).collect())
    }

    /// Returns a package by name.
    pub fn find(&self, name: &str) -> Result<Package> {
        let package = self.show(&[name.into()])?.remove(name);
        package.with_context(|| Unavailable(self.unavailable(&format!("package {name}"))))
    }

    /// Returns the packages and everything that they depend on.
    pub fn with_dependencies(&self, names: &[&str]) -> Result<Vec<Package>> {
        let shell = &self.shell;
        let install = cmd!(shell, "apt-get install --simulate -qq {names...}");
        let plan = self.command(install).read().with_context(|| {
            Unavailable(self.unavailable(&format!("all that {} depends on", names.join(", "))))
        })?;
        let installed =
            plan.lines().filter_map(|line| line.strip_prefix("Inst ")?.split(' ').next());
        let names: Vec<_> = installed.map(String::from).collect();
        let mut packages = self.show(&names)?;
        let package = |name: &String| {
            let package = packages.remove(name);
            package.with_context(|| Unavailable(self.unavailable(&format!("package {name}"))))
        };
        names.iter().map(package).collect()
    }

    /// Downloads a package into the current folder of `shell`.
    pub fn download(&self, shell: &Shell, package: &Package) -> Result<()> {
        let Package { name, version, .. } = package;
        let download = self.command(cmd!(shell, "apt-get download -qq {name}={version}"));
        download
            .run()
            .with_context(|| Unavailable(format!("{name} {version} cannot be downloaded")))
    }

    fn unavailable(&self, what: &str) -> String {
        let Apt { suites, architecture, .. } = self;
        format!("{suites} does not have {what} for {architecture}")
    }
}

impl Package {
    /// A package without checksum and dependencies.
    #[cfg(test)]
    pub fn new(name: &str, version: &str) -> Package {
        Package { name: name.into(), version: version.into(), ..Package::default() }
    }

    /// Returns the packages that this one depends on whose names begin with one of
    /// `prefixes`.
    pub fn dependencies(&self, prefixes: &[&str]) -> Vec<String> {
        let names =
            self.depends.split([',', '|']).filter_map(|term| term.split_whitespace().next());
        let matches = |name: &&str| prefixes.iter().any(|prefix| name.starts_with(prefix));
        names.filter(matches).map(String::from).collect()
    }
}

/// The packages that `apt-cache show` describes. A virtual package has an empty stanza.
fn parse_stanzas(stanzas: &str) -> impl Iterator<Item = Package> {
    let packages = stanzas.split("\n\n").map(|stanza| {
        let field = |field: &str| {
            let mut lines = stanza.lines();
            let value = lines.find_map(|line| line.strip_prefix(field)?.strip_prefix(": "));
            value.unwrap_or_default().to_string()
        };
        Package {
            name: field("Package"),
            version: field("Version"),
            sha256: field("SHA256"),
            depends: field("Depends"),
        }
    });
    packages.filter(|package| !package.sha256.is_empty())
}

/// The mirrors of Debian and of its security updates that the system uses.
fn mirrors(shell: &Shell) -> Result<(String, String)> {
    let uris = cmd!(shell, "apt-get update --print-uris").quiet().ignore_stderr().read()?;
    let mirror_of = |line: &'_ str| {
        let uri = line.strip_prefix('\'')?.split('\'').next()?;
        Some(uri.split_once("/dists/")?.0.to_string())
    };
    let mut mirrors = uris.lines().filter_map(mirror_of);
    let main = mirrors.clone().find(|mirror| mirror.ends_with("/debian"));
    let security = mirrors.find(|mirror| mirror.ends_with("/debian-security"));
    let main = main.context("apt has no mirror of Debian among its sources")?;
    let security = security.unwrap_or_else(|| format!("{main}-security"));
    Ok((main, security))
}

/// The numbers in a version. Versions of kernels compare by these.
pub fn version_numbers(version: &str) -> Vec<u64> {
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
            .max_by_key(|version| version_numbers(version));
        assert_eq!(newest, Some("6.12.117-1~deb12u1"));
    }

    #[test]
    fn dependencies_are_found_by_prefix() {
        let depends = "linux-binary-7 (= 7), kmod, a | linux-modules-7, linux-base".into();
        let package = Package { depends, ..Package::new("linux-image-7", "7") };
        let found = package.dependencies(&["linux-binary-", "linux-modules-"]);
        assert_eq!(found, ["linux-binary-7", "linux-modules-7"]);
    }

    #[test]
    fn stanzas_without_a_checksum_are_left_out() {
        let stanzas = "Package: a\nVersion: 1\nDepends: b (= 1)\nSHA256: aa\n\n\
                       Package: virtual\n\nPackage: b\nVersion: 2\nSHA256: bb\n";
        let packages: Vec<_> = parse_stanzas(stanzas).collect();
        let found: Vec<_> = packages.iter().map(|p| (&*p.name, &*p.version, &*p.sha256)).collect();
        assert_eq!(found, [("a", "1", "aa"), ("b", "2", "bb")]);
        assert_eq!(packages[0].dependencies(&["b"]), ["b"]);
    }
}
