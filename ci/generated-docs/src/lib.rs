//! Replaces generated sections of documents.
//!
//! A generated section is enclosed by two comments. Both name the command that writes the section:
//!
//! ```text
//! <!-- written by `make matrix`: begin -->
//! ...
//! <!-- written by `make matrix`: end -->
//! ```

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

/// A generated section of one document.
#[derive(Debug, Clone, Copy)]
pub struct Section {
    document: &'static str,
    command: &'static str,
}

impl Section {
    /// The section of `document` (a path below the repository's root) that `command`
    /// writes.
    pub const fn new(document: &'static str, command: &'static str) -> Section {
        Section { document, command }
    }

    /// The document's path below the repository's root.
    pub fn document(&self) -> &'static str {
        self.document
    }

    /// Replaces the section's content in the repository at `root`.
    ///
    /// # Errors
    /// If the document cannot be read or written, or lacks one of the two comments.
    pub fn write(&self, root: &Path, content: &str) -> Result<()> {
        let text = self.replace(&self.read(root)?, content)?;
        fs::write(root.join(self.document), text).context(self.document)
    }

    /// Returns whether the section already has this content in the repository at `root`.
    ///
    /// # Errors
    /// If the document cannot be read, or lacks one of the two comments.
    pub fn is_current(&self, root: &Path, content: &str) -> Result<bool> {
        let text = self.read(root)?;
        Ok(self.replace(&text, content)? == text)
    }

    fn read(&self, root: &Path) -> Result<String> {
        fs::read_to_string(root.join(self.document)).context(self.document)
    }

    fn replace(&self, text: &str, content: &str) -> Result<String> {
        let Section { document, command } = self;
        let begin = format!("<!-- written by `{command}`: begin -->\n");
        let end = format!("<!-- written by `{command}`: end -->\n");
        let parts = text.split_once(&begin).and_then(|(before, rest)| {
            let (_, after) = rest.split_once(&end)?;
            Some((before, after))
        });
        let (before, after) = parts.with_context(|| {
            format!(
                "{document} has no section for `{command}`: put the lines {} and {} into it",
                begin.trim_end(),
                end.trim_end()
            )
        })?;
        Ok(format!("{before}{begin}{content}{end}{after}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECTION: Section = Section::new("page.md", "make pages");
    const BEGIN: &str = "<!-- written by `make pages`: begin -->\n";
    const END: &str = "<!-- written by `make pages`: end -->\n";

    #[test]
    fn only_the_section_of_the_command_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let page = folder.path().join("page.md");
        fs::write(&page, format!("above\n{BEGIN}old\n{END}below\n")).unwrap();
        assert!(!SECTION.is_current(folder.path(), "new\n").unwrap());

        SECTION.write(folder.path(), "new\n").unwrap();
        let expected = format!("above\n{BEGIN}new\n{END}below\n");
        assert_eq!(fs::read_to_string(page).unwrap(), expected);
        assert!(SECTION.is_current(folder.path(), "new\n").unwrap());
    }

    #[test]
    fn a_document_without_both_comments_is_an_error() {
        for text in ["", BEGIN, END, &format!("{END}{BEGIN}")] {
            let error = SECTION.replace(text, "new\n").unwrap_err().to_string();
            assert!(error.contains("page.md has no section for `make pages`"), "{error}");
        }
    }
}
