//! `kernel-matrix claims`: checks the objects' claims, and writes the table of kernels.

use anyhow::{Result, ensure};
use generated_docs::Section;

use crate::claims::Claims;
use crate::image::checkout;
use crate::table;

/// The section of the documentation that contains the table of kernels.
pub const TABLE: Section = Section::new("docs/kernels.md", "make matrix");

/// Fails if the table of kernels is outdated. Fails also if an object claims to run on kernels that
/// did not execute the object, unless the claim is excused. See [`crate::claims`].
pub fn check() -> Result<()> {
    let claims = Claims::read()?;
    let problems = claims.problems()?;
    ensure!(problems.is_empty(), "claims that do not hold:\n  {}", problems.join("\n  "));
    ensure!(
        TABLE.is_current(checkout(), &table::render(&claims)?)?,
        "the table of kernels in {} differs from bpf-prebuilt/executed.toml and \
         ci/matrix/kernels.toml: run `cargo run --package kernel-matrix -- claims --write`",
        TABLE.document()
    );
    for excused in claims.excused()? {
        println!("{excused}");
    }
    println!("every claim was executed on a kernel, or is excused");
    Ok(())
}

/// Writes the table of kernels into the documentation.
pub fn write_table() -> Result<()> {
    TABLE.write(checkout(), &table::render(&Claims::read()?)?)
}
