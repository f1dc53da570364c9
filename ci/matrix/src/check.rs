//! `kernel-matrix claims`: checks the claims, and writes the table of kernels.

use anyhow::{Result, ensure};
use generated_docs::Section;

use crate::claims::Claims;
use crate::image::checkout;
use crate::table;

/// The place of the table of kernels.
pub const TABLE: Section = Section::new("docs/kernels.md", "make matrix");

/// Fails if a claim was not executed and nothing says why, or if the table is outdated.
pub fn check() -> Result<()> {
    let claims = Claims::read()?;
    let problems = claims.problems()?;
    ensure!(problems.is_empty(), "claims that no kernel executed:\n  {}", problems.join("\n  "));
    ensure!(
        TABLE.is_current(checkout(), &table::render(&claims)?)?,
        "the table of kernels in {} differs from bpf-prebuilt/executed.toml and \
         ci/matrix/kernels.toml: run `cargo run --package kernel-matrix -- claims --write`",
        TABLE.document()
    );
    for excused in claims.excused()? {
        println!("{excused}");
    }
    println!("every claim was executed on a kernel, or is marked as not executed");
    Ok(())
}

/// Brings the table of kernels up to date.
pub fn write_table() -> Result<()> {
    TABLE.write(checkout(), &table::render(&Claims::read()?)?)
}
