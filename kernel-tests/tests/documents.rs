//! Checks the documents of the repository: their links lead to existing targets, the `make` targets
//! that they name exist, they explain every counter, verdict and target, and they name the
//! current ABI version.

use std::fs;
use std::path::{Path, PathBuf};

use laminar_xdp::{Layer, XdpReason, XdpVerdict};
use laminar_xdp_prebuilt::{Manifest, abi, embedded};

/// The word count of `README.md`, as `wc -w` counts words, must be lower than this number.
const MAX_README_WORDS: usize = 900;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The Markdown files whose links and commands are checked.
fn documents() -> Vec<PathBuf> {
    let named = ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "loader/README.md"];
    let mut documents: Vec<_> = named.iter().map(|name| root().join(name)).collect();
    documents.push(root().join("bpf-prebuilt/MANIFEST.md"));
    let pages = fs::read_dir(root().join("docs")).expect("the folder of the documents");
    documents.extend(pages.map(|page| page.expect("a page").path()));
    documents.retain(|document| document.extension().is_some_and(|extension| extension == "md"));
    documents
}

/// The anchor that GitHub generates for a heading.
fn anchor(heading: &str) -> String {
    let kept = heading.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
    kept.map(|c| if c == ' ' { '-' } else { c.to_ascii_lowercase() }).collect()
}

fn has_anchor(document: &Path, wanted: &str) -> bool {
    let text = read(document);
    let headings = text.lines().filter(|line| line.starts_with('#'));
    headings.map(|line| anchor(line.trim_start_matches('#').trim())).any(|found| found == wanted)
}

#[test]
fn relative_links_lead_to_files_and_headings() {
    let (mut checked, mut broken) = (0, Vec::new());
    for document in documents() {
        let text = read(&document);
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            if link.contains("://") {
                continue;
            }
            let (path, heading) = link.split_once('#').unwrap_or((link, ""));
            let target = match path {
                "" => document.clone(),
                path => document.parent().expect("a folder").join(path),
            };
            let is_right = target.exists() && (heading.is_empty() || has_anchor(&target, heading));
            if !is_right {
                broken.push(format!("{}: {link}", document.display()));
            }
            checked += 1;
        }
    }
    assert!(broken.is_empty(), "{broken:#?}");
    assert!(checked > 20, "only {checked} links were found");
}

#[test]
fn make_targets_exist() {
    let makefile = read(&root().join("Makefile"));
    let targets: Vec<_> = makefile.lines().filter_map(|line| line.split_once(':')).collect();
    let (mut checked, mut unknown) = (0, Vec::new());
    for document in documents() {
        let text = read(&document);
        let in_text = text.split("`make ").skip(1);
        let in_blocks = text.split("\nmake ").skip(1);
        for rest in in_text.chain(in_blocks) {
            let end = rest.find(|c: char| !c.is_ascii_lowercase() && c != '-');
            let target = &rest[..end.unwrap_or(rest.len())];
            if !targets.iter().any(|(name, _)| *name == target) {
                unknown.push(format!("{}: make {target}", document.display()));
            }
            checked += 1;
        }
    }
    assert!(unknown.is_empty(), "{unknown:#?}");
    assert!(checked > 20, "only {checked} commands were found");
}

/// The text below a heading of the second level, up to the next one.
fn section(page: &str, heading: &str) -> String {
    let page = read(&root().join(page));
    let section = page.split(&format!("\n## {heading}\n")).nth(1).expect("the section");
    section.split("\n## ").next().expect("its text").to_string()
}

#[test]
fn every_reason_of_xdp_has_a_row_of_the_verdict_table() {
    let table = section("docs/operations.md", "What happens to a packet");
    for reason in XdpReason::ALL.iter().filter(|reason| reason.layers().contains(&Layer::Xdp)) {
        let counter = format!("| `{reason}` |");
        let row = table.lines().find(|line| line.ends_with(&counter));
        let row = row.unwrap_or_else(|| {
            panic!("the verdict table in docs/operations.md has no row for `{reason}`")
        });
        let verdict = match reason.verdict() {
            XdpVerdict::Passed => "| pass |",
            XdpVerdict::Dropped => "| drop |",
            XdpVerdict::Redirected => "| redirect to that CPU |",
            other => panic!("the test does not know the verdict {other:?}"),
        };
        assert!(row.contains(verdict), "docs/operations.md: not {verdict} in {row}");
    }
}

#[test]
fn every_target_has_a_row_of_the_table_of_objects_in_the_order_of_the_manifest() {
    let table = section("docs/kernels.md", "Objects");
    let manifest = Manifest::parse(embedded::MANIFEST).expect("the embedded manifest");
    let mut before = 0;
    for object in &manifest.objects {
        let layer = if object.layer == Layer::Xdp { "XDP" } else { "sockets" };
        let row = format!("\n| `{}` | {layer} | Linux {} |", object.target, object.since);
        let at = table.find(&row);
        let at = at.unwrap_or_else(|| panic!("docs/kernels.md has no row that starts {row:?}"));
        assert!(at >= before, "docs/kernels.md: the row of {} is too late", object.target);
        before = at;
    }
}

/// The numbers that follow `ABI ` in a text.
fn abi_versions(text: &str) -> Vec<u32> {
    let numbers = text.split("ABI ").skip(1).map(|rest| {
        let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        rest[..end].parse()
    });
    numbers.flatten().collect()
}

#[test]
fn documents_name_the_current_abi_version() {
    let current = abi::LAMINAR_ABI_VERSION;
    let changes = read(&root().join("CHANGELOG.md"));
    let newest = changes.split("\n## ").nth(1).expect("a version in CHANGELOG.md");
    let format = newest.lines().find(|line| line.starts_with("Manifest format "));
    let format = format.expect("the line `Manifest format n, ABI n.` of the newest version");
    assert_eq!(abi_versions(format), [current], "CHANGELOG.md: {format}");
    let heading = format!("\n### ABI {current}\n");
    assert!(newest.contains(&heading), "CHANGELOG.md does not describe ABI {current}");
    // The pages describe the present state. They need no number, but a number must be right.
    for page in documents().into_iter().filter(|path| !path.ends_with("CHANGELOG.md")) {
        let named = abi_versions(&read(&page));
        let is_current = named.iter().all(|version| *version == current);
        assert!(is_current, "{} names ABI {named:?}, now it is {current}", page.display());
    }
}

#[test]
fn every_counter_is_explained_to_operators() {
    let section = section("docs/operations.md", "Counters");
    for reason in XdpReason::ALL {
        let row = format!("\n| `{reason}` | ");
        assert!(section.contains(&row), "docs/operations.md does not explain `{reason}`");
    }
}

#[test]
fn the_front_page_is_short() {
    let words = read(&root().join("README.md")).split_whitespace().count();
    assert!(words < MAX_README_WORDS, "README.md has {words} words");
}
