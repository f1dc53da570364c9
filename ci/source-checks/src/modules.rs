//! Reads the modules of one crate, and finds the module that defines the item of a path.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow};
use proc_macro2::TokenStream;

use crate::tokens::{self, Located, Source};

/// The names on the way from the crate's root to a module, such as `["ingest", "receiver"]`. The
/// root has the empty path.
pub type ModulePath = Vec<String>;

/// A crate's modules.
pub struct Crate {
    modules: BTreeMap<ModulePath, Module>,
}

#[derive(Default)]
struct Module {
    file: PathBuf,
    /// The names that `use` declarations bind in this module, each with the path as written.
    names: BTreeMap<String, Vec<String>>,
    /// Every path in this module that may name an item of another module, as written.
    paths: Vec<Located>,
}

/// A place in the source code where one module names an item of another module.
#[derive(Debug, Clone)]
pub struct Reference {
    /// The module that contains the reference.
    pub from: ModulePath,
    /// The written path, relative to the crate's root.
    pub path: Vec<String>,
    /// The module that defines the named item, even if the written path leads through a re-export.
    pub to: ModulePath,
    file: PathBuf,
    line: usize,
}

/// Shows the place, for example `src/a/b.rs:12`.
impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file.display(), self.line)
    }
}

impl Crate {
    /// Reads the crate whose root module is in `file`, including the modules of all platforms and
    /// of tests. References show files relative to `workspace`.
    pub fn read(workspace: &Path, file: &Path) -> Result<Crate> {
        let mut it = Crate { modules: BTreeMap::new() };
        let folder = file.parent().context("a root module has a folder")?;
        it.add_file(workspace, Vec::new(), file, folder)?;
        Ok(it)
    }

    /// Returns every reference from one module of the crate to another.
    pub fn references(&self) -> Vec<Reference> {
        let modules = self.modules.iter();
        let all = modules
            .flat_map(|(from, module)| module.paths.iter().map(move |path| (from, module, path)));
        all.filter_map(|(from, module, path)| {
            let segments = self.absolute(from, &path.segments)?;
            let to = self.resolve(&segments, 0);
            let (from, file, line) = (from.clone(), module.file.clone(), path.line);
            (to != from).then_some(Reference { from, path: segments, to, file, line })
        })
        .collect()
    }

    /// Returns the names of the top-level modules, which are the modules that the root declares.
    pub fn top_modules(&self) -> impl Iterator<Item = &str> {
        self.modules.keys().filter(|path| path.len() == 1).map(|path| path[0].as_str())
    }

    fn add_file(
        &mut self,
        workspace: &Path,
        module: ModulePath,
        file: &Path,
        children: &Path,
    ) -> Result<()> {
        let text = fs::read_to_string(file).with_context(|| file.display().to_string())?;
        let tokens = text.parse::<TokenStream>();
        let tokens = tokens.map_err(|error| anyhow!("{}: {error}", file.display()))?;
        self.add(workspace, module, tokens::read(tokens), file, children)
    }

    /// Adds a module and, recursively, the modules that it declares. `children` is the folder
    /// with the files of the declared modules.
    fn add(
        &mut self,
        workspace: &Path,
        path: ModulePath,
        source: Source,
        file: &Path,
        children: &Path,
    ) -> Result<()> {
        for declared in source.modules {
            let inner = [&path[..], std::slice::from_ref(&declared.name)].concat();
            let folder = children.join(&declared.name);
            match (declared.content, declared.path) {
                (Some(content), _) => self.add(workspace, inner, content, file, &folder)?,
                (None, Some(given)) => {
                    let file = file.parent().context("a file has a folder")?.join(given);
                    let file = file.canonicalize().with_context(|| file.display().to_string())?;
                    let folder = file.parent().context("a file has a folder")?.to_path_buf();
                    self.add_file(workspace, inner, &file, &folder)?;
                }
                (None, None) => {
                    let files =
                        [children.join(format!("{}.rs", declared.name)), folder.join("mod.rs")];
                    let found = files.iter().find(|file| file.exists());
                    let found = found.with_context(|| {
                        format!(
                            "{}: the file of `mod {}` is missing",
                            file.display(),
                            declared.name
                        )
                    })?;
                    self.add_file(workspace, inner, found, &folder)?;
                }
            }
        }
        let shown = file.strip_prefix(workspace).unwrap_or(file).to_path_buf();
        let mut module = Module { file: shown, paths: source.paths, ..Module::default() };
        for declared in source.uses {
            if let Some(name) = declared.name {
                module.names.insert(name, declared.path.segments.clone());
            }
            module.paths.push(declared.path);
        }
        self.modules.insert(path, module);
        Ok(())
    }

    /// Converts a path that is written in `module` to a path from the root; `None` if the path
    /// names an item of another crate.
    fn absolute(&self, module: &ModulePath, path: &[String]) -> Option<Vec<String>> {
        let (first, rest) = path.split_first()?;
        let child = || [&module[..], std::slice::from_ref(first)].concat();
        let mut base = match first.as_str() {
            "crate" => Vec::new(),
            "self" => module.clone(),
            "super" => module.split_last()?.1.to_vec(),
            _ if self.modules.contains_key(&child()) => child(),
            name => {
                // A `use` declaration may bind the first name. If the path of that declaration
                // begins with the same name, as in `use name;` and `use name::name;`, the name is
                // the name of another crate.
                let bound = self.modules.get(module)?.names.get(name)?;
                if bound.first() == Some(first) {
                    return None;
                }
                self.absolute(module, bound)?
            }
        };
        let mut rest = rest;
        while let Some((first, after)) = rest.split_first()
            && first == "super"
        {
            base.pop()?;
            rest = after;
        }
        base.extend_from_slice(rest);
        Some(base)
    }

    /// Returns the module that defines the item of a path from the root.
    fn resolve(&self, path: &[String], depth: usize) -> ModulePath {
        let mut module = Vec::new();
        for (at, segment) in path.iter().enumerate() {
            let child = [&module[..], std::slice::from_ref(segment)].concat();
            if self.modules.contains_key(&child) {
                module = child;
                continue;
            }
            let bound = self.modules.get(&module).and_then(|module| module.names.get(segment));
            let bound = bound.and_then(|path| self.absolute(&module, path));
            return match bound {
                // `use` declarations can refer to each other in a cycle, so the recursion is
                // limited.
                Some(bound) if depth < 16 => {
                    self.resolve(&[&bound[..], &path[at + 1..]].concat(), depth + 1)
                }
                _ => module,
            };
        }
        module
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Creates a crate from files, given as names and texts. The first file is the root module.
    pub fn read(files: &[(&str, &str)]) -> Crate {
        let temporary = tempfile::tempdir().unwrap();
        let folder = temporary.path().canonicalize().unwrap();
        for (name, text) in files {
            let file = folder.join(name);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, text).unwrap();
        }
        Crate::read(&folder, &folder.join(files[0].0)).unwrap()
    }

    fn references(files: &[(&str, &str)]) -> Vec<String> {
        let references = read(files).references().into_iter();
        let shown =
            references.map(|it| format!("{it} {} -> {}", it.from.join("::"), it.to.join("::")));
        shown.collect()
    }

    #[test]
    fn modules_are_found_in_files_folders_braces_and_given_paths() {
        let files = [
            (
                "src/lib.rs",
                "mod a; mod b; mod c { mod d; use crate::b; }\n#[path = \"../e.rs\"] mod e;",
            ),
            ("src/a.rs", "mod f; use super::b;"),
            ("src/a/f.rs", "use super::super::b;"),
            ("src/b/mod.rs", ""),
            ("src/c/d.rs", "use super::super::b;"),
            ("e.rs", "use crate::b;"),
        ];
        let expected = [
            "src/a.rs:1 a -> b",
            "src/a/f.rs:1 a::f -> b",
            "src/lib.rs:1 c -> b",
            "src/c/d.rs:1 c::d -> b",
            "e.rs:1 e -> b",
        ];
        assert_eq!(references(&files), expected);
    }

    #[test]
    fn references_lead_through_reexports_to_the_defining_module() {
        let files = [
            ("lib.rs", "mod a; mod b; pub use a::X;"),
            ("a/mod.rs", "mod c; pub use c::{X, Y as Z}; pub struct Own;"),
            ("a/c.rs", "pub struct X; pub struct Y;"),
            ("b.rs", "use crate::{X, a::{self, Own, Z}};\nfn f() { a::Own; self::a::Z; }"),
        ];
        let expected = [
            "lib.rs:1  -> a::c",
            "a/mod.rs:1 a -> a::c",
            "a/mod.rs:1 a -> a::c",
            "b.rs:2 b -> a::c",
            "b.rs:1 b -> a::c",
            "b.rs:1 b -> a",
            "b.rs:1 b -> a",
            "b.rs:1 b -> a::c",
        ];
        assert_eq!(references(&files), expected);
    }

    #[test]
    fn paths_to_other_crates_are_no_references() {
        let files = [
            ("lib.rs", "mod a; use std::fmt; use fmt::Display; use libc;"),
            ("a.rs", "use std::io; use super::fmt; use crate::libc::c_int; use libc::libc;"),
        ];
        // A name that the root imports from another crate counts as an item of the root.
        assert_eq!(references(&files), ["a.rs:1 a -> ", "a.rs:1 a -> "]);
    }
}
