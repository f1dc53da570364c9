//! Runs apt with a private configuration, for one architecture and some suites.
//!
//! apt fetches from the mirrors that the system uses, and checks signatures with Debian's keyring.
//! The apt configuration, the package lists and the installed packages of the system stay
//! unchanged.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use xshell::{Cmd, Shell, cmd};

use crate::kernels::Architecture;

const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";
/// An empty file. Its modification time is the time of the last successful update of the package
/// lists.
const STAMP: &str = "lists-fetched";
/// Package lists older than this are fetched again.
const MAX_LIST_AGE: Duration = Duration::from_secs(24 * 60 * 60);

pub struct Apt {
    shell: Shell,
    architecture: Architecture,
    suites: String,
    /// The folder of the configuration, the package lists and apt's caches.
    folder: PathBuf,
    /// Whether this process tried to fetch the package lists.
    is_updated: bool,
    /// Whether that attempt failed.
    has_update_failed: bool,
}

/// A package, as the signed package list describes it.
#[derive(Debug, Clone, Default)]
pub struct Package {
    pub name: String,
    pub version: String,
    pub sha256: String,
    depends: String,
}

/// Says what the mirror does not have. The value is an error of its own, or the context of another
/// error. The text is one line and does not name the mirror, because the text may become a part of
/// the documentation.
#[derive(Debug)]
pub struct Unavailable(pub String);

impl fmt::Display for Unavailable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Apt {
    /// Writes apt's configuration to `folder`, and fetches package lists that are missing or
    /// older than [`MAX_LIST_AGE`].
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
        // apt names the files of the package lists after the mirror and the suite. If the mirror or
        // a suite has changed, the files for the new sources do not exist yet, so they must be
        // fetched.
        let file = self.folder.join("debian.sources");
        if fs::read_to_string(&file).ok().as_ref() != Some(&sources) {
            self.forget_lists()?;
            fs::write(file, sources)?;
        }
        // apt reads from this file which packages are installed. The file is empty, so that apt
        // includes dependencies even if they are installed on this system.
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
        // apt reads this file after the system's configuration, so the settings in this file win.
        // The variable APT_CONFIG would not work: apt reads the file that APT_CONFIG names before
        // the system's configuration, and the system's settings would win.
        command.arg("--config-file").arg(self.folder.join("apt.conf")).quiet()
    }

    /// Fetches the package lists if they are missing or old. If the fetch fails, this function only
    /// prints a warning, because the old lists may suffice.
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
            eprintln!(
                "warning: cannot update the package lists of {}: {}",
                self.suites,
                error.trim()
            );
        } else {
            fs::write(stamp, "")?;
        }
        Ok(())
    }

    /// Whether this process has already tried to fetch the package lists. Another attempt would not
    /// get newer lists.
    pub fn is_updated(&self) -> bool {
        self.is_updated
    }

    /// Marks the package lists as outdated: the next [`Apt`] in this folder fetches them again.
    pub fn forget_lists(&self) -> Result<()> {
        match fs::remove_file(self.folder.join(STAMP)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error.into()),
            _ => Ok(()),
        }
    }

    /// Returns the packages whose names match a regular expression.
    ///
    /// # Errors
    /// If no package matches and the package lists could not be updated.
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

    /// Returns the newest version of each named package. Leaves out packages that the suites do
    /// not have.
    pub fn show(&self, names: &[String]) -> Result<BTreeMap<String, Package>> {
        if names.is_empty() {
            return Ok(BTreeMap::new());
        }
        let shell = &self.shell;
        let show = cmd!(shell, "apt-cache show --no-all-versions {names...}");
        // If a package is missing, the command describes the other packages and then fails.
        let stanzas = self.command(show).ignore_stderr().ignore_status().read()?;
        Ok(parse_stanzas(&stanzas).map(|package| (package.name.clone(), package)).collect())
    }

    /// Returns a package by name.
    pub fn find(&self, name: &str) -> Result<Package> {
        let package = self.show(&[name.into()])?.remove(name);
        package.with_context(|| Unavailable(self.unavailable(&format!("package {name}"))))
    }

    /// Returns the named packages and all their dependencies.
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
    /// Creates a package without a checksum and without dependencies.
    #[cfg(test)]
    pub fn new(name: &str, version: &str) -> Package {
        Package { name: name.into(), version: version.into(), ..Package::default() }
    }

    /// Returns the direct dependencies whose names begin with one of `prefixes`.
    pub fn dependencies(&self, prefixes: &[&str]) -> Vec<String> {
        let names =
            self.depends.split([',', '|']).filter_map(|term| term.split_whitespace().next());
        let matches = |name: &&str| prefixes.iter().any(|prefix| name.starts_with(prefix));
        names.filter(matches).map(String::from).collect()
    }
}

/// Parses the output of `apt-cache show`. Skips virtual packages, whose stanzas have no checksum.
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

/// Returns the system's mirror of Debian and its mirror of Debian's security updates.
fn mirrors(shell: &Shell) -> Result<(String, String)> {
    let uris = cmd!(shell, "apt-get update --print-uris").quiet().ignore_stderr().read()?;
    let mirror_of = |line: &'_ str| {
        let uri = line.strip_prefix('\'')?.split('\'').next()?;
        Some(uri.split_once("/dists/")?.0.to_string())
    };
    let mut mirrors = uris.lines().filter_map(mirror_of);
    let main = mirrors.clone().find(|mirror| mirror.ends_with("/debian"));
    let security = mirrors.find(|mirror| mirror.ends_with("/debian-security"));
    let main = main.context("the apt sources of this system contain no Debian mirror")?;
    let security = security.unwrap_or_else(|| format!("{main}-security"));
    Ok((main, security))
}

/// Returns the numbers in a version, in order. Of two versions of a kernel package, the newer one
/// has the greater list.
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
