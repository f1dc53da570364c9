//! Finds the packages of the kernels that a run boots.
//!
//! If a stable suite lacks its series, the run fails. A backports suite can lose a whole series, or
//! lose the modules of a series while the suite still lists the image. In both cases the missing
//! kernel becomes a [`Gap`], and the run continues.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, bail};
use serde::Serialize;

use crate::apt::{Package, Unavailable, version_numbers};
use crate::kernels::{Architecture, Backports, KernelName, Kernels, Stable};
use crate::release::Release;

/// The kernel images that the suites list.
pub trait Index {
    /// Returns the images of one suite for one architecture.
    fn images(&self, architecture: Architecture, suite: &str) -> Result<Vec<Image>>;
}

/// A kernel image that a suite lists.
#[derive(Debug, Clone)]
pub struct Image {
    pub package: Package,
    pub release: Release,
    /// The packages with the other parts of the kernel. Debian splits newer kernels into several
    /// packages.
    pub parts: Vec<Package>,
    /// The names of the parts that the suite does not have.
    pub missing: Vec<String>,
}

/// The kernels of one run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Selection {
    /// The kernels that `kernels.toml` lists.
    Default,
    /// Every series that a suite of `kernels.toml` has.
    All,
    /// These series.
    Named(Vec<KernelName>),
}

/// A kernel to boot.
#[derive(Debug, Clone)]
pub struct Kernel {
    pub name: KernelName,
    pub suite: String,
    /// The image's package comes first.
    pub packages: Vec<Package>,
    /// Whether a failed download of the kernel becomes a gap. If false, a failed download fails the
    /// run.
    pub may_be_missing: bool,
}

/// A kernel that the run should boot, but that the mirror does not have.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Gap {
    /// A series, or a rank in a backports suite such as `newest of trixie-backports`.
    pub kernel: String,
    pub architecture: Architecture,
    pub reason: String,
}

/// The kernels of a selection that the mirror has, and the gaps.
#[derive(Debug, Default)]
pub struct Resolved {
    pub kernels: Vec<Kernel>,
    pub gaps: Vec<Gap>,
}

/// Finds the kernels of a selection.
///
/// # Errors
/// If a stable suite has no kernel of its series, or if no suite has a named series.
pub fn resolve(index: &impl Index, kernels: &Kernels, selection: &Selection) -> Result<Resolved> {
    let mut resolved = Resolved::default();
    if let Selection::Named(names) = selection {
        for &name in names {
            if !resolved.has(name) {
                resolved.kernels.push(find_named(index, kernels, name)?);
            }
        }
        return Ok(resolved);
    }
    for stable in &kernels.stable {
        resolved.kernels.push(find_stable(index, stable)?);
    }
    for source in &kernels.backports {
        resolved.add_newest(index, source)?;
    }
    if *selection == Selection::All {
        for (architecture, suite) in kernels.suites() {
            // The loops above list the same suites. For a suite that cannot be listed, those loops
            // have already returned an error or added a gap.
            let Ok(images) = index.images(architecture, suite) else { continue };
            for (series, image) in by_series(images) {
                resolved.add(KernelName { series, architecture }, suite, image);
            }
        }
    }
    Ok(resolved)
}

fn find_stable(index: &impl Index, stable: &Stable) -> Result<Kernel> {
    let Stable { series, architecture, suite } = stable;
    let mut images = by_series(index.images(*architecture, suite)?);
    let image = images.remove(series).filter(Image::is_bootable);
    let image = image.with_context(|| {
        format!(
            "{suite} has no kernel {series} for {architecture} that can be booted (other series: \
             {}), but ci/matrix/kernels.toml lists it as stable",
            join(images.keys())
        )
    })?;
    Ok(image.into_kernel(stable.name(), suite, false))
}

/// Finds a named kernel. If `kernels.toml` lists the series as stable, this function takes the
/// kernel from the suite listed there, so that a series means the same kernel in every run. For
/// another series it takes the newest image of all suites.
fn find_named(index: &impl Index, kernels: &Kernels, name: KernelName) -> Result<Kernel> {
    if let Some(stable) = kernels.stable.iter().find(|stable| stable.name() == name) {
        return find_stable(index, stable);
    }
    let (mut listed, mut errors) = (Vec::new(), String::new());
    for (architecture, suite) in kernels.suites() {
        match index.images(architecture, suite) {
            Ok(images) => listed.extend(
                by_series(images)
                    .into_iter()
                    .map(|(series, image)| (KernelName { series, architecture }, suite, image)),
            ),
            Err(error) => errors += &format!("\n{error:#}"),
        }
    }
    listed.sort_by_key(|(_, _, image)| image.rank());
    let newest = listed.iter().rfind(|(listed, ..)| *listed == name);
    let reason = match newest {
        Some((_, suite, image)) if image.is_bootable() => {
            return Ok(image.clone().into_kernel(name, suite, false));
        }
        Some((_, suite, image)) => {
            format!("kernel {name} cannot be booted: {}", image.lacks(suite))
        }
        None => format!("no suite of ci/matrix/kernels.toml has a kernel {name}"),
    };
    let names = |is_bootable: bool| -> BTreeSet<KernelName> {
        let listed = listed.iter().filter(|(_, _, image)| image.is_bootable() == is_bootable);
        listed.map(|(name, ..)| *name).collect()
    };
    let (available, broken) = (names(true), names(false));
    bail!(
        "{reason}\navailable: {}\nlisted without all of their packages: {}{errors}",
        join(&available),
        join(broken.difference(&available))
    )
}

impl Resolved {
    fn has(&self, name: KernelName) -> bool {
        self.kernels.iter().any(|kernel| kernel.name == name)
    }

    /// Adds the newest series of a backports suite. If a series cannot be booted, adds the next
    /// older series instead.
    fn add_newest(&mut self, index: &impl Index, source: &Backports) -> Result<()> {
        let Backports { suite, architecture, newest } = source;
        let (images, unavailable) = match index.images(*architecture, suite) {
            Ok(images) => (images, None),
            Err(error) => (Vec::new(), Some(error.downcast::<Unavailable>()?)),
        };
        let mut found = 0;
        for (series, image) in by_series(images).into_iter().rev() {
            let name = KernelName { series, architecture: *architecture };
            if found < *newest && !self.has(name) && self.add(name, suite, image) {
                found += 1;
            }
        }
        let further = if found > 0 { "further " } else { "" };
        let reason = unavailable.map(|Unavailable(reason)| reason).unwrap_or_else(|| {
            format!("{suite} has no {further}kernel for {architecture} that can be booted")
        });
        for rank in &Backports::RANKS[found..*newest] {
            self.gaps.push(Gap {
                kernel: format!("{rank} of {suite}"),
                architecture: *architecture,
                reason: reason.clone(),
            });
        }
        Ok(())
    }

    /// Adds an optional kernel. If the kernel cannot be booted, records a gap, and the run
    /// continues. Returns whether the kernel can be booted.
    fn add(&mut self, name: KernelName, suite: &str, image: Image) -> bool {
        let is_bootable = image.is_bootable();
        if self.has(name) {
            return is_bootable;
        }
        if is_bootable {
            self.kernels.push(image.into_kernel(name, suite, true));
        } else {
            let (kernel, architecture) = (name.to_string(), name.architecture);
            let gap = Gap { kernel, architecture, reason: image.lacks(suite) };
            if !self.gaps.contains(&gap) {
                self.gaps.push(gap);
            }
        }
        is_bootable
    }
}

impl Image {
    fn into_kernel(self, name: KernelName, suite: &str, may_be_missing: bool) -> Kernel {
        let packages = [vec![self.package], self.parts].concat();
        Kernel { name, suite: suite.into(), packages, may_be_missing }
    }

    fn is_bootable(&self) -> bool {
        self.missing.is_empty()
    }

    /// Returns a sort key. Of several images of a series, the run boots the one with the highest
    /// key. A bootable image outranks a newer image that cannot be booted, because a mirror can
    /// lose some of an image's packages.
    fn rank(&self) -> (bool, Vec<u64>) {
        (self.is_bootable(), version_numbers(&self.package.version))
    }

    fn lacks(&self, suite: &str) -> String {
        format!("{suite} lists {}, but not {}", self.package.name, self.missing.join(" and "))
    }
}

/// Returns, for each series, the image with the highest rank.
fn by_series(mut images: Vec<Image>) -> BTreeMap<Release, Image> {
    images.sort_by_key(Image::rank);
    images.into_iter().map(|image| (image.release, image)).collect()
}

fn join(names: impl IntoIterator<Item = impl ToString>) -> String {
    let names: Vec<_> = names.into_iter().map(|name| name.to_string()).collect();
    if names.is_empty() { "none".into() } else { names.join(", ") }
}

#[cfg(test)]
mod tests;
