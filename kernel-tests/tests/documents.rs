//! Checks the documents of the repository: their links lead to existing targets, the `make` targets
//! that they name exist, and they explain every counter.

use std::fs;
use std::path::{Path, PathBuf};

use laminar_xdp::XdpReason;

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

#[test]
fn every_counter_is_explained_to_operators() {
    let page = read(&root().join("docs/operations.md"));
    let section = page.split("\n## Counters\n").nth(1).expect("the section");
    let section = section.split("\n## ").next().expect("its text");
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
