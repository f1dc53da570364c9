use anyhow::{Context, Result};

use super::*;

/// A mirror in memory. A suite without an entry behaves like a suite whose package list cannot be
/// fetched.
#[derive(Clone)]
struct FakeIndex(BTreeMap<(Architecture, &'static str), Vec<Image>>);

impl Index for FakeIndex {
    fn images(&self, architecture: Architecture, suite: &str) -> Result<Vec<Image>> {
        let images = self.0.iter().find(|(key, _)| **key == (architecture, suite));
        let missing = || Unavailable(format!("the package list of {suite} is missing"));
        Ok(images.with_context(missing)?.1.clone())
    }
}

impl FakeIndex {
    fn suite(&mut self, suite: &str) -> &mut Vec<Image> {
        let found = self.0.iter_mut().find(|((_, name), _)| *name == suite);
        found.expect("a suite of the fake index").1
    }

    /// Removes a series from a suite.
    fn remove(&mut self, suite: &str, series: &str) {
        self.suite(suite).retain(|image| image.release.to_string() != series);
    }

    /// Removes the modules of a series, and leaves the images of that series.
    fn remove_modules(&mut self, suite: &str, series: &str) {
        let images = self.suite(suite).iter_mut();
        for image in images.filter(|image| image.release.to_string() == series) {
            image.parts.clear();
            image.missing = vec![format!("linux-modules-{}", image.package.version)];
        }
    }
}

fn image(version: &str) -> Image {
    Image {
        package: Package::new(&format!("linux-image-{version}"), version),
        release: Release::of_version(version).unwrap(),
        parts: vec![Package::new(&format!("linux-modules-{version}"), version)],
        missing: vec![],
    }
}

/// The suites of `kernels.toml`, as the mirror had them in November 2026.
fn index() -> FakeIndex {
    let images = |versions: &[&str]| versions.iter().map(|version| image(version)).collect();
    let amd64 = Architecture::Amd64;
    let mut index = FakeIndex(BTreeMap::from([
        ((amd64, "bullseye-security"), images(&["5.10.234-1", "5.10.262-1", "6.1.190-1"])),
        ((amd64, "bookworm-security"), images(&["6.1.192-2", "6.12.94-1", "6.12.117-1"])),
        (
            (amd64, "trixie-backports"),
            images(&["6.17.13-1", "6.18.15-1", "7.0.13-1", "7.2.12-1", "7.3.4-1"]),
        ),
        ((Architecture::S390x, "bookworm-backports"), images(&["6.12.95-1"])),
    ]));
    index.remove_modules("trixie-backports", "7.0");
    index
}

fn resolve_from(index: &FakeIndex, selection: Selection) -> Result<Resolved> {
    resolve(index, &Kernels::read().unwrap(), &selection)
}

fn names(resolved: &Resolved) -> Vec<String> {
    resolved.kernels.iter().map(|kernel| kernel.name.to_string()).collect()
}

fn gaps(resolved: &Resolved) -> Vec<String> {
    let gaps = resolved.gaps.iter();
    gaps.map(|Gap { kernel, reason, .. }| format!("{kernel}: {reason}")).collect()
}

fn named(index: &FakeIndex, names: &[&str]) -> Result<Resolved> {
    let names = names.iter().map(|name| name.parse()).collect::<Result<_>>()?;
    resolve_from(index, Selection::Named(names))
}

#[test]
fn stable_series_and_the_newest_backports_are_taken() {
    let resolved = resolve_from(&index(), Selection::Default).unwrap();
    assert_eq!(names(&resolved), ["5.10", "6.1", "6.12", "7.3", "7.2", "6.12-s390x"]);
    assert_eq!(gaps(&resolved), [""; 0]);
    let versions = resolved.kernels.iter().map(|kernel| &*kernel.packages[0].version);
    let versions: Vec<_> = versions.collect();
    assert_eq!(versions[..3], ["5.10.262-1", "6.1.192-2", "6.12.117-1"]);
    assert_eq!(resolved.kernels[3].packages[1].name, "linux-modules-7.3.4-1");
    let may_be_missing: Vec<_> = resolved.kernels.iter().map(|k| k.may_be_missing).collect();
    assert_eq!(may_be_missing, [false, false, false, true, true, true]);
}

#[test]
fn a_newer_backports_series_is_taken_without_an_edit() {
    let mut index = index();
    index.suite("trixie-backports").push(image("8.0.1-1"));
    let resolved = resolve_from(&index, Selection::Default).unwrap();
    assert_eq!(names(&resolved), ["5.10", "6.1", "6.12", "8.0", "7.3", "6.12-s390x"]);
}

#[test]
fn a_backports_series_that_left_is_replaced_by_the_next_older_series() {
    let mut index = index();
    index.remove("trixie-backports", "7.3");
    let resolved = resolve_from(&index, Selection::Default).unwrap();
    // 7.0 is newer than 6.18, but cannot be booted, so 6.18 is the second kernel.
    assert_eq!(names(&resolved), ["5.10", "6.1", "6.12", "7.2", "6.18", "6.12-s390x"]);
    assert_eq!(
        gaps(&resolved),
        ["7.0: trixie-backports lists linux-image-7.0.13-1, but not linux-modules-7.0.13-1"]
    );
}

#[test]
fn a_backports_series_without_modules_is_a_gap() {
    let mut index = index();
    index.remove_modules("trixie-backports", "7.3");
    let resolved = resolve_from(&index, Selection::Default).unwrap();
    assert_eq!(names(&resolved), ["5.10", "6.1", "6.12", "7.2", "6.18", "6.12-s390x"]);
    assert_eq!(
        gaps(&resolved),
        [
            "7.3: trixie-backports lists linux-image-7.3.4-1, but not linux-modules-7.3.4-1",
            "7.0: trixie-backports lists linux-image-7.0.13-1, but not linux-modules-7.0.13-1",
        ]
    );
}

#[test]
fn an_image_without_modules_is_replaced_by_an_older_image_of_its_series() {
    let mut index = index();
    let mut newer = image("7.3.5-1");
    newer.missing = vec!["linux-modules-7.3.5-1".into()];
    index.suite("trixie-backports").push(newer);
    let resolved = resolve_from(&index, Selection::Default).unwrap();
    assert_eq!(resolved.kernels[3].packages[0].version, "7.3.4-1");
    assert_eq!(gaps(&resolved), [""; 0]);
}

#[test]
fn an_empty_backports_suite_is_a_gap() {
    let mut index = index();
    index.remove("bookworm-backports", "6.12");
    let resolved = resolve_from(&index, Selection::Default).unwrap();
    assert_eq!(names(&resolved), ["5.10", "6.1", "6.12", "7.3", "7.2"]);
    assert_eq!(
        gaps(&resolved),
        ["newest of bookworm-backports: bookworm-backports has no kernel for s390x that can be \
          booted"]
    );
    assert_eq!(resolved.gaps[0].architecture, Architecture::S390x);
}

#[test]
fn a_backports_suite_that_left_the_mirror_is_a_gap() {
    let mut index = index();
    index.0.remove(&(Architecture::Amd64, "trixie-backports"));
    let resolved = resolve_from(&index, Selection::Default).unwrap();
    assert_eq!(names(&resolved), ["5.10", "6.1", "6.12", "6.12-s390x"]);
    assert_eq!(
        gaps(&resolved),
        [
            "newest of trixie-backports: the package list of trixie-backports is missing",
            "second newest of trixie-backports: the package list of trixie-backports is missing",
        ]
    );
}

#[test]
fn a_stable_suite_without_its_series_is_an_error() {
    let mut without_series = index();
    without_series.remove("bookworm-security", "6.12");
    let mut without_modules = index();
    without_modules.remove_modules("bookworm-security", "6.12");
    for index in [without_series, without_modules] {
        let error = resolve_from(&index, Selection::Default).unwrap_err().to_string();
        assert!(error.contains("bookworm-security has no kernel 6.12 for amd64"), "{error}");
        assert!(error.contains("(other series: 6.1)"), "{error}");
        assert!(named(&index, &["6.12"]).is_err());
    }
    let mut without_suite = index();
    without_suite.0.remove(&(Architecture::Amd64, "bullseye-security"));
    let error = resolve_from(&without_suite, Selection::Default).unwrap_err().to_string();
    assert_eq!(error, "the package list of bullseye-security is missing");
}

#[test]
fn every_series_of_the_mirror_can_be_named() {
    let index = index();
    let resolved = named(&index, &["6.17", "6.12-s390x", "6.17", "5.10"]).unwrap();
    assert_eq!(names(&resolved), ["6.17", "6.12-s390x", "5.10"]);
    assert!(resolved.kernels.iter().all(|kernel| !kernel.may_be_missing));
    // bullseye-security also has 6.1, but kernels.toml lists 6.1 for bookworm-security.
    assert_eq!(named(&index, &["6.1"]).unwrap().kernels[0].suite, "bookworm-security");
}

#[test]
fn the_error_for_an_unknown_series_lists_the_available_series() {
    let error = named(&index(), &["6.13"]).unwrap_err().to_string();
    assert_eq!(
        error,
        "no suite of ci/matrix/kernels.toml has a kernel 6.13\n\
         available: 5.10, 6.1, 6.12, 6.12-s390x, 6.17, 6.18, 7.2, 7.3\n\
         listed without all of their packages: 7.0"
    );
}

#[test]
fn a_named_series_without_modules_is_an_error() {
    let error = named(&index(), &["7.0"]).unwrap_err().to_string();
    let reason = "kernel 7.0 cannot be booted: trixie-backports lists linux-image-7.0.13-1, but \
                  not linux-modules-7.0.13-1\n";
    assert!(error.starts_with(reason), "{error}");
}

#[test]
fn the_error_for_an_unknown_series_names_suites_that_cannot_be_listed() {
    let mut index = index();
    index.0.remove(&(Architecture::Amd64, "trixie-backports"));
    let error = named(&index, &["6.17"]).unwrap_err().to_string();
    assert!(error.ends_with("\nthe package list of trixie-backports is missing"), "{error}");
    assert!(named(&index, &["6.12-s390x"]).is_ok());
}

#[test]
fn all_takes_every_bootable_series_and_reports_the_others_as_gaps() {
    let resolved = resolve_from(&index(), Selection::All).unwrap();
    let expected = ["5.10", "6.1", "6.12", "7.3", "7.2", "6.12-s390x", "6.17", "6.18"];
    assert_eq!(names(&resolved), expected);
    assert_eq!(gaps(&resolved).len(), 1);
    assert!(gaps(&resolved)[0].starts_with("7.0: "));
}
