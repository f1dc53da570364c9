//! Downloads the kernels of a selection, and the other packages that their virtual machines need.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use anyhow::{Context, Error, Result};

use crate::apt::Unavailable;
use crate::kernels::{Architecture, Kernels};
use crate::mirror::Mirror;
use crate::packages::find_file;
use crate::resolve::{Gap, Kernel, Selection, resolve};
use crate::userland::UserlandPackages;

/// The downloads for a run, and the gaps: the kernels that the mirror does not have.
pub struct Obtained {
    pub kernels: Vec<(Kernel, KernelFiles)>,
    pub userlands: BTreeMap<Architecture, UserlandPackages>,
    pub gaps: Vec<Gap>,
}

/// The files of one kernel.
pub struct KernelFiles {
    pub kernel: PathBuf,
    pub veth: PathBuf,
}

/// Downloads everything that a selection needs. After a failure, updates the package lists and
/// tries once more, because outdated lists can be the cause.
///
/// # Errors
/// If a kernel is missing and its [`Kernel::may_be_missing`] is false. Any other cause than a
/// missing package, such as a full disk, is also an error.
pub fn obtain(mirror: &Mirror, kernels: &Kernels, selection: &Selection) -> Result<Obtained> {
    let first = attempt(mirror, kernels, selection);
    if first.as_ref().is_ok_and(|obtained| obtained.gaps.is_empty())
        || !mirror.update_old_lists()?
    {
        return first;
    }
    match &first {
        Ok(Obtained { gaps, .. }) => {
            gaps.iter().for_each(|gap| eprintln!("missing: {}: {}", gap.kernel, gap.reason));
        }
        Err(error) => eprintln!("{error:#}"),
    }
    eprintln!("trying again with new package lists");
    attempt(mirror, kernels, selection)
}

fn attempt(mirror: &Mirror, kernels: &Kernels, selection: &Selection) -> Result<Obtained> {
    let resolved = resolve(mirror, kernels, selection)?;
    let mut obtained =
        Obtained { kernels: Vec::new(), userlands: BTreeMap::new(), gaps: resolved.gaps };
    let mut wanted = resolved.kernels;
    let architectures: BTreeSet<_> = wanted.iter().map(|kernel| kernel.name.architecture).collect();
    for architecture in architectures {
        let of_architecture = |kernel: &&Kernel| kernel.name.architecture == architecture;
        match UserlandPackages::fetch(mirror, kernels, architecture) {
            Ok(packages) => {
                obtained.userlands.insert(architecture, packages);
            }
            Err(error) => {
                let kernels = wanted.iter().filter(of_architecture);
                let gaps: Option<Vec<Gap>> = kernels.map(|kernel| gap_of(kernel, &error)).collect();
                let Some(gaps) = gaps else {
                    return Err(error.context(format!("packages for {architecture}")));
                };
                obtained.gaps.extend(gaps);
                wanted.retain(|kernel| !of_architecture(&kernel));
            }
        }
    }
    for kernel in wanted {
        match fetch_kernel(mirror, &kernel) {
            Ok(files) => obtained.kernels.push((kernel, files)),
            Err(error) => match gap_of(&kernel, &error) {
                Some(gap) => obtained.gaps.push(gap),
                None => return Err(error.context(format!("kernel {}", kernel.name))),
            },
        }
    }
    Ok(obtained)
}

/// Converts an error to a gap if the error says that the mirror lacks a package, and if `kernel`
/// may be missing. Otherwise returns `None`. The error, for example a full disk, then fails the
/// run.
fn gap_of(kernel: &Kernel, error: &Error) -> Option<Gap> {
    let Unavailable(reason) = error.downcast_ref().filter(|_| kernel.may_be_missing)?;
    Some(Gap {
        kernel: kernel.name.to_string(),
        architecture: kernel.name.architecture,
        reason: reason.clone(),
    })
}

fn fetch_kernel(mirror: &Mirror, kernel: &Kernel) -> Result<KernelFiles> {
    let packages = mirror.packages(kernel.name.architecture, &kernel.suite)?;
    let (mut vmlinuz, mut veth) = (None, None);
    for package in &kernel.packages {
        let folder = packages.unpack(package, &["vmlinuz", "veth.ko"])?;
        vmlinuz = vmlinuz.or(find_file(&folder, "vmlinuz")?);
        veth = veth.or(find_file(&folder, "veth.ko")?);
    }
    let name = &kernel.packages[0].name;
    let vmlinuz = vmlinuz.with_context(|| format!("{name} has no vmlinuz"))?;
    let veth = veth.with_context(|| format!("{name} has no module veth"))?;
    Ok(KernelFiles { kernel: vmlinuz, veth })
}

#[cfg(test)]
mod tests {
    use anyhow::anyhow;

    use super::*;

    fn kernel(may_be_missing: bool) -> Kernel {
        let (name, suite) = ("7.3".parse().unwrap(), "a-suite".into());
        Kernel { name, suite, packages: vec![], may_be_missing }
    }

    #[test]
    fn only_what_the_mirror_lacks_is_a_gap() {
        let missing = anyhow!("404").context(Unavailable("a-package cannot be downloaded".into()));
        let missing = missing.context("unpack");
        let gap = gap_of(&kernel(true), &missing).unwrap();
        assert_eq!(gap.reason, "a-package cannot be downloaded");
        assert!(gap_of(&kernel(false), &missing).is_none());
        assert!(gap_of(&kernel(true), &anyhow!("no space left on device")).is_none());
    }
}
