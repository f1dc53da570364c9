//! The table of kernels for the documentation.

use std::fmt::Write;

use anyhow::Result;
use laminar_xdp_prebuilt::{ByteOrder, ObjectEntry};

use crate::claims::{Claims, Range};
use crate::executed::ExecutedObject;
use crate::kernels::Unexecuted;

/// Renders the table and the notes below it as Markdown.
pub fn render(claims: &Claims) -> Result<String> {
    let mut text = String::from(
        "| object | built for | native mode | generic mode | every check passed on | not executed |\n\
         |---|---|---|---|---|---|\n",
    );
    for object in &claims.manifest.objects {
        let unexecuted = join(claims.unexecuted_ranges(object)?.iter().map(Range::to_string));
        let kernels = join(claims.kernels(object).map(|kernel| kernel.version.clone()));
        let native = behaviour(claims, object, |executed| &executed.native);
        let generic = behaviour(claims, object, |executed| &executed.generic);
        let ObjectEntry { file, since, .. } = object;
        writeln!(
            text,
            "| `{file}` | Linux {since} and later | {native} | {generic} | {kernels} | {unexecuted} |",
        )?;
    }
    let executed = claims.executed.kernels.iter().filter(|kernel| {
        let current = |object| claims.kernels(object).any(|other| other.name == kernel.name);
        claims.manifest.objects.iter().any(current)
    });
    let kernels = executed.map(|kernel| format!("{} ({})", kernel.version, kernel.architecture));
    writeln!(text, "\nThe kernels are Debian's, under QEMU: {}.", join(kernels))?;
    for Unexecuted { from, before, byte_orders, reason } in &claims.unexecuted {
        let orders: Vec<_> = byte_orders.iter().map(ByteOrder::to_string).collect();
        let orders = orders.join(" and ");
        writeln!(text, "Not executed from {from} to before {before} ({orders}): {reason}.")?;
    }
    for gap in claims.current_gaps() {
        let (kernel, architecture, reason) = (&gap.kernel, gap.architecture, &gap.reason);
        writeln!(text, "Gap in the last run: {kernel} ({architecture}): {reason}.")?;
    }
    Ok(text)
}

/// Describes the results of an object in one mode. Names the kernels only if their results differ.
fn behaviour(
    claims: &Claims,
    object: &ObjectEntry,
    mode: impl Fn(&ExecutedObject) -> &str,
) -> String {
    let mut groups: Vec<(&str, Vec<&str>)> = Vec::new();
    for kernel in claims.kernels(object) {
        let executed = kernel.objects.iter().find(|executed| executed.file == object.file);
        let Some(behaviour) = executed.map(&mode) else { continue };
        match groups.iter_mut().find(|(other, _)| *other == behaviour) {
            Some((_, kernels)) => kernels.push(&kernel.name),
            None => groups.push((behaviour, vec![&kernel.name])),
        }
    }
    match &groups[..] {
        [] => "-".into(),
        [(behaviour, _)] => behaviour.to_string(),
        several => {
            let text = |(what, on): &(&str, Vec<&str>)| format!("{what} on {}", on.join(", "));
            several.iter().map(text).collect::<Vec<_>>().join("; ")
        }
    }
}

fn join(items: impl Iterator<Item = String>) -> String {
    let items: Vec<_> = items.collect();
    if items.is_empty() { "-".into() } else { items.join(", ") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::claims::tests::{add_gap, claims};

    #[test]
    fn a_row_names_kernels_and_ranges_that_were_not_executed() {
        let table = render(&claims()).unwrap();
        assert!(table.contains("| `4.15.o` | Linux 4.15 and later | steers | refused |"));
        assert!(table.contains("5.10.262 | from 4.15 to before 5.9 |"), "{table}");
        assert!(table.contains("(bpfel): not to be had."), "{table}");
        assert!(!table.contains("Gap"), "{table}");
    }

    #[test]
    fn kernels_are_named_if_their_results_differ() {
        let mut claims = claims();
        let mut newer = claims.executed.kernels[0].clone();
        (newer.name, newer.version) = ("7.3".into(), "7.3.4".into());
        newer.objects[0].generic = "steers".into();
        claims.executed.kernels.push(newer);
        let table = render(&claims).unwrap();
        assert!(table.contains("| steers | refused on 5.10; steers on 7.3 |"), "{table}");
        assert!(table.contains("5.10.262 (amd64), 7.3.4 (amd64)"), "{table}");
    }

    #[test]
    fn a_gap_of_the_last_run_is_named() {
        let mut claims = claims();
        claims.executed.kernels.clear();
        add_gap(&mut claims);
        let table = render(&claims).unwrap();
        assert!(table.contains("| `5.9.o` | Linux 5.9 and later | - | - | - | from 5.9 on |"));
        let note = "Gap in the last run: newest of a-suite (amd64): a-suite has no kernel for \
                    amd64 that can be booted.\n";
        assert!(table.ends_with(note), "{table}");
    }
}
