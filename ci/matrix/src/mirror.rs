//! Access to the Debian mirror: the packages of every suite that a run needs.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use anyhow::Result;

use crate::apt::Package;
use crate::kernels::Architecture;
use crate::packages::Packages;
use crate::release::Release;
use crate::resolve::{Image, Index};

/// The name prefixes of the packages that contain the image and the modules of a split kernel.
const PARTS: [&str; 2] = ["linux-binary-", "linux-modules-"];

type Suite = (Architecture, String);

pub struct Mirror {
    cache: PathBuf,
    opened: RefCell<BTreeMap<Suite, Rc<Packages>>>,
}

impl Mirror {
    /// Creates a mirror that keeps package lists and packages in the folder `cache`.
    pub fn new(cache: &Path) -> Mirror {
        Mirror { cache: cache.into(), opened: RefCell::default() }
    }

    /// Returns the packages of one suite.
    pub fn packages(&self, architecture: Architecture, suite: &str) -> Result<Rc<Packages>> {
        let key = (architecture, suite.to_string());
        if let Some(packages) = self.opened.borrow().get(&key) {
            return Ok(packages.clone());
        }
        let packages = Rc::new(Packages::new(&self.cache, architecture, &[suite])?);
        self.opened.borrow_mut().insert(key, packages.clone());
        Ok(packages)
    }

    /// Drops the package lists that an earlier process fetched, so that the next query fetches them
    /// again. Returns whether it dropped any lists.
    pub fn update_old_lists(&self) -> Result<bool> {
        let mut opened = self.opened.borrow_mut();
        let before = opened.len();
        for packages in opened.values().filter(|packages| !packages.apt.is_updated()) {
            packages.apt.forget_lists()?;
        }
        opened.retain(|_, packages| packages.apt.is_updated());
        Ok(opened.len() < before)
    }
}

impl Index for Mirror {
    fn images(&self, architecture: Architecture, suite: &str) -> Result<Vec<Image>> {
        let apt = &self.packages(architecture, suite)?.apt;
        // The pattern requires three numbers, to exclude metapackages such as
        // linux-image-6.12-cloud-amd64.
        let flavour = architecture.flavour();
        let names = apt.search(&format!(r"^linux-image-[0-9]+\.[0-9]+\.[0-9]+[^ ]*-{flavour}$"))?;
        let images = apt.show(&names)?;
        let parts = |image: &Package| image.dependencies(&PARTS);
        let all_parts: Vec<String> = images.values().flat_map(parts).collect();
        let all_parts = apt.show(&all_parts)?;
        let images = images.into_values().map(|package| {
            let (mut found, mut missing) = (Vec::new(), Vec::new());
            for name in parts(&package) {
                match all_parts.get(&name) {
                    Some(part) => found.push(part.clone()),
                    None => missing.push(name),
                }
            }
            let release = Release::of_version(&package.version)?;
            Ok(Image { package, release, parts: found, missing })
        });
        images.collect()
    }
}
