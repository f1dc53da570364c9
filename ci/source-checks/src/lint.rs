//! Finds attributes that change the level of a lint.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow};
use proc_macro2::{Delimiter, TokenStream, TokenTree};

/// Returns the attributes in the source files below `folder` that name a lint. Each result has the
/// form `file: attribute`. The file is relative to `folder`.
pub fn attributes(folder: &Path, lint: &str) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for file in source_files(folder)? {
        let text = fs::read_to_string(&file).with_context(|| file.display().to_string())?;
        let tokens = text.parse::<TokenStream>();
        let tokens = tokens.map_err(|error| anyhow!("{}: {error}", file.display()))?;
        let shown = file.strip_prefix(folder)?.display().to_string();
        collect(tokens, lint, &mut |attribute| found.push(format!("{shown}: {attribute}")));
    }
    Ok(found)
}

fn source_files(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).with_context(|| folder.display().to_string())? {
        let path = entry?.path();
        if path.is_dir() {
            files.extend(source_files(&path)?);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

fn collect(tokens: TokenStream, lint: &str, found: &mut impl FnMut(String)) {
    for token in tokens {
        let TokenTree::Group(group) = token else { continue };
        if group.delimiter() == Delimiter::Bracket && names(group.stream(), lint) {
            found(group.stream().to_string());
        } else {
            collect(group.stream(), lint, found);
        }
    }
}

fn names(tokens: TokenStream, lint: &str) -> bool {
    tokens.into_iter().any(|token| match token {
        TokenTree::Ident(ident) => ident == lint,
        TokenTree::Group(group) => names(group.stream(), lint),
        _ => false,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_found_at_every_depth() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("a")).unwrap();
        fs::write(folder.path().join("lib.rs"), "#![deny(unsafe_code)] // allow(unsafe_code)")
            .unwrap();
        let text = "mod b { #[cfg_attr(x, expect(unsafe_code, reason = \"\"))] fn f() {} }";
        fs::write(folder.path().join("a/c.rs"), text).unwrap();
        let expected = [
            "a/c.rs: cfg_attr (x , expect (unsafe_code , reason = \"\"))",
            "lib.rs: deny (unsafe_code)",
        ];
        assert_eq!(attributes(folder.path(), "unsafe_code").unwrap(), expected);
    }
}
