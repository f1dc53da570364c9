//! The listing of the loader's public API: a text with one line for each item. The listing is
//! checked in, so a commit that changes the API also changes the listing.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use public_api::{Builder, PublicApi};

use crate::workspace::{Workspace, cargo};

/// The version of Rust that the listing requires. The JSON format of rustdoc differs between
/// versions of Rust, and each version of the crate `public-api` reads only one format.
pub const RUST_VERSION: &str = "1.95";

/// The file of the listing, relative to the workspace.
pub const FILE: &str = "loader/public-api.txt";

const HEADER: &str = "\
# The public API of laminar-xdp on Linux with all features, written by `make api`.
# Left out are the methods of implemented traits, blanket implementations, and the
# automatic traits except Send and Sync.
";

/// Traits that the listing leaves out, because the compiler implements these traits automatically,
/// and a user of a type does not need them.
const UNLISTED_TRAITS: [&str; 6] =
    ["Freeze", "RefUnwindSafe", "StructuralPartialEq", "Unpin", "UnsafeUnpin", "UnwindSafe"];

/// Fails unless this machine runs Linux and has Rust [`RUST_VERSION`]. On other machines the
/// listing would differ from the checked-in file even if the API has not changed.
pub fn check_machine() -> Result<()> {
    ensure!(cfg!(target_os = "linux"), "needs Linux: other platforms have no XDP");
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let output = Command::new(rustc).arg("--version").output().context("rustc --version")?;
    let version = String::from_utf8_lossy(&output.stdout).into_owned();
    let number = version.split(' ').nth(1).unwrap_or_default();
    ensure!(
        number.starts_with(&format!("{RUST_VERSION}.")),
        "needs Rust {RUST_VERSION}, but the installed version is {}",
        version.trim()
    );
    Ok(())
}

/// Generates the listing from the source code.
pub fn listing(workspace: &Workspace) -> Result<String> {
    check_machine()?;
    let loader = public_api(workspace, "laminar-xdp")?;
    let prebuilt = public_api(workspace, "laminar-xdp-prebuilt")?;
    let mut lines = lines_of(&loader);
    // The loader re-exports some types of laminar-xdp-prebuilt. Only the re-exported types are part
    // of the loader's public API.
    let exported: Vec<String> = lines
        .iter()
        .filter_map(|line| line.strip_prefix("pub use laminar_xdp::"))
        .map(|name| format!("laminar_xdp_prebuilt::{name}"))
        .collect();
    let is_exported = |line: &String| exported.iter().any(|path| is_about(line, path));
    lines.extend(lines_of(&prebuilt).into_iter().filter(is_exported));
    Ok(format!("{HEADER}{}\n", lines.join("\n")))
}

/// Writes the listing to [`FILE`].
pub fn write(workspace: &Workspace) -> Result<()> {
    let file = workspace.root.join(FILE);
    std::fs::write(&file, listing(workspace)?).with_context(|| file.display().to_string())
}

/// Fails if the checked-in listing is outdated. The error contains the lines that differ.
pub fn check(workspace: &Workspace) -> Result<()> {
    let file = workspace.root.join(FILE);
    let old = std::fs::read_to_string(&file).with_context(|| file.display().to_string())?;
    let new = listing(workspace)?;
    ensure!(
        old == new,
        "the public API differs from {FILE}; if the change is intended, run `make api` and \
         commit the file:\n{}",
        difference(&old, &new)
    );
    Ok(())
}

/// Returns the lines that only one of the two texts contains: after `-` the lines of `old`, after
/// `+` the lines of `new`.
fn difference(old: &str, new: &str) -> String {
    let only = |text: &str, other: &str, sign: char| -> Vec<String> {
        let lines = text.lines().filter(|line| !other.lines().any(|other| other == *line));
        lines.map(|line| format!("{sign} {line}")).collect()
    };
    let lines = [only(old, new, '-'), only(new, old, '+')].concat();
    if lines.is_empty() { "the order of the lines".into() } else { lines.join("\n") }
}

/// Reads the public API of a library from the JSON that rustdoc generates.
fn public_api(workspace: &Workspace, package: &str) -> Result<PublicApi> {
    let json = rustdoc_json(&workspace.target_directory, package)?;
    let api = Builder::from_rustdoc_json(&json).omit_blanket_impls(true).build();
    api.with_context(|| json.display().to_string())
}

fn rustdoc_json(target: &Path, package: &str) -> Result<PathBuf> {
    // This command sets RUSTC_BOOTSTRAP, and some build scripts depend on that variable. The
    // command therefore gets its own target folder. If it shared a folder with other builds, cargo
    // would rebuild the crates of these scripts whenever the variable changes.
    let folder = target.join("public-api");
    let mut command = cargo();
    command.args(["rustdoc", "--quiet", "--locked", "--lib", "--all-features"]);
    command.args(["--package", package]).arg("--target-dir").arg(&folder);
    command.args(["--", "-Zunstable-options", "--output-format=json", "--cap-lints=allow"]);
    // The JSON output is an unstable feature. RUSTC_BOOTSTRAP enables unstable features in the
    // stable compiler.
    command.env("RUSTC_BOOTSTRAP", "1");
    // The caller may have set these variables for its own build. These variables can change the
    // API, or the folder to which rustdoc writes the JSON.
    for variable in [
        "RUSTFLAGS",
        "RUSTDOCFLAGS",
        "CARGO_ENCODED_RUSTFLAGS",
        "CARGO_ENCODED_RUSTDOCFLAGS",
        "CARGO_BUILD_TARGET",
    ] {
        command.env_remove(variable);
    }
    let status = command.status().context("cargo rustdoc")?;
    ensure!(status.success(), "cargo rustdoc fails for {package}");
    Ok(folder.join("doc").join(package.replace('-', "_")).with_extension("json"))
}

/// Returns a line for each item, except the items that [`HEADER`] excludes. The methods of adjacent
/// `impl` blocks are sorted together, so moving a method from one such block to another does not
/// change the lines.
fn lines_of(api: &PublicApi) -> Vec<String> {
    let shown: HashMap<_, _> = api.items().map(|item| (item.id(), item.to_string())).collect();
    let mut lines = Vec::new();
    for item in api.items() {
        let line = item.to_string();
        let parent = item.parent_id().and_then(|parent| shown.get(&parent));
        let in_impl = parent.map_or(ImplBlock::None, |parent| ImplBlock::of(parent));
        let is_trait_method = in_impl == ImplBlock::Trait && line.contains("fn ");
        let is_block = ImplBlock::of(&line) == ImplBlock::Inherent;
        if !is_trait_method && !is_block && !is_unlisted(&line) {
            lines.push((in_impl, line));
        }
    }
    let both_inherent = |a: &(ImplBlock, String), b: &(ImplBlock, String)| {
        a.0 == ImplBlock::Inherent && b.0 == ImplBlock::Inherent
    };
    for methods in lines.chunk_by_mut(both_inherent) {
        methods.sort_by(|(_, a), (_, b)| a.cmp(b));
    }
    lines.into_iter().map(|(_, line)| line).collect()
}

/// The kind of `impl` block that a line begins; `None` if it begins no `impl` block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ImplBlock {
    None,
    Inherent,
    Trait,
}

impl ImplBlock {
    fn of(line: &str) -> ImplBlock {
        match (line.starts_with("impl"), line.contains(" for ")) {
            (false, _) => ImplBlock::None,
            (true, false) => ImplBlock::Inherent,
            (true, true) => ImplBlock::Trait,
        }
    }
}

fn is_unlisted(line: &str) -> bool {
    let implemented = line.starts_with("impl").then(|| line.split_once(" for ")).flatten();
    implemented.is_some_and(|(implementation, _)| {
        let name = implementation.rsplit("::").next();
        name.is_some_and(|name| UNLISTED_TRAITS.contains(&name))
    })
}

/// Whether a line declares the type `path` of laminar-xdp-prebuilt, a member of that type, or a
/// trait implementation for that type.
fn is_about(line: &str, path: &str) -> bool {
    let subject = match line.split_once(" for ") {
        Some((implementation, subject)) if implementation.starts_with("impl") => subject,
        _ => line,
    };
    // The first path in a line is the path of the declared item. Later paths are the types of
    // arguments and fields.
    let own = subject.find("laminar_xdp_prebuilt::").map(|start| &subject[start..]);
    let rest = own.and_then(|own| own.strip_prefix(path));
    rest.is_some_and(|rest| !rest.starts_with(|next: char| next.is_alphanumeric() || next == '_'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_about_the_item_that_it_declares() {
        let path = "laminar_xdp_prebuilt::Feature";
        for line in [
            "pub enum laminar_xdp_prebuilt::Feature",
            "pub fn laminar_xdp_prebuilt::Feature::name(self) -> &'static str",
            "impl laminar_xdp_prebuilt::Feature",
            "impl core::convert::From<u8> for laminar_xdp_prebuilt::Feature",
        ] {
            assert!(is_about(line, path), "{line}");
        }
        for line in [
            "pub enum laminar_xdp_prebuilt::FeatureSet",
            "pub laminar_xdp_prebuilt::Entry::needs: laminar_xdp_prebuilt::Feature",
            "impl core::convert::From<laminar_xdp_prebuilt::Feature> for laminar_xdp_prebuilt::Entry",
            "pub fn laminar_xdp::f()",
        ] {
            assert!(!is_about(line, path), "{line}");
        }
    }

    #[test]
    fn traits_without_information_are_unlisted() {
        assert!(is_unlisted("impl core::marker::Freeze for a::B"));
        assert!(is_unlisted("impl !core::panic::unwind_safe::UnwindSafe for a::B"));
        assert!(!is_unlisted("impl core::marker::Send for a::B"));
        assert!(!is_unlisted("pub fn a::Freeze(&self) for "));
    }

    #[test]
    fn inherent_and_trait_impl_blocks_are_distinguished() {
        assert_eq!(ImplBlock::of("impl<'a> a::B<'a>"), ImplBlock::Inherent);
        assert_eq!(ImplBlock::of("impl<'a> core::fmt::Debug for a::B<'a>"), ImplBlock::Trait);
        assert_eq!(ImplBlock::of("pub struct a::B<'a>"), ImplBlock::None);
    }

    #[test]
    fn differences_show_both_sides() {
        assert_eq!(difference("a\nb\n", "b\nc\n"), "- a\n+ c");
        assert_eq!(difference("a\nb\n", "b\na\n"), "the order of the lines");
    }
}
