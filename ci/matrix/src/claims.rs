//! What the objects claim, held against what was executed, and the table of it in
//! README.md.
//!
//! A target claims every kernel from its `since` on. The releases at which targets
//! begin cut that into ranges; in each, the very bytes of an object were executed on
//! some kernel, or `kernels.toml` says that and why they could not be.

use std::fmt::Write;
use std::fs;

use anyhow::{Context, Result, ensure};
use laminar_xdp_prebuilt::{ByteOrder, Manifest, ObjectEntry};

use crate::executed::{Executed, ExecutedKernel, ExecutedObject, release};
use crate::image::checkout;
use crate::kernels::{Kernels, Unexecuted};

const BEGIN: &str = "<!-- written by `make matrix`: begin -->\n";
const END: &str = "<!-- written by `make matrix`: end -->";

/// The releases between two targets' beginnings.
#[derive(Clone, PartialEq)]
struct Range {
    from: String,
    /// None: whatever will come.
    before: Option<String>,
}

/// Everything that is said about the objects.
struct Claims {
    manifest: Manifest,
    executed: Executed,
    unexecuted: Vec<Unexecuted>,
}

/// Fails if a claim is neither executed nor marked, or README.md says something else.
pub fn check() -> Result<()> {
    let claims = Claims::read()?;
    let problems = claims.problems();
    ensure!(problems.is_empty(), "claims without a kernel:\n  {}", problems.join("\n  "));
    let (path, readme) = readme()?;
    ensure!(
        replace_table(&readme, &claims.table())? == readme,
        "the table of kernels in {path} is not what bpf-prebuilt/executed.toml and \
         ci/matrix/kernels.toml say: run `make matrix`"
    );
    println!("every claim was executed on a kernel or is marked as not executed");
    Ok(())
}

/// Brings the table in README.md up to date.
pub fn write_table() -> Result<()> {
    let (path, readme) = readme()?;
    Ok(fs::write(path, replace_table(&readme, &Claims::read()?.table())?)?)
}

fn readme() -> Result<(String, String)> {
    let path = checkout().join("README.md");
    let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    Ok((path.display().to_string(), text))
}

fn replace_table(readme: &str, table: &str) -> Result<String> {
    let parts = readme.split_once(BEGIN);
    let parts = parts.and_then(|(before, rest)| Some((before, rest.split_once(END)?.1)));
    let (before, after) = parts.context("README.md has no place for the table of kernels")?;
    Ok(format!("{before}{BEGIN}{table}{END}{after}"))
}

impl Claims {
    fn read() -> Result<Claims> {
        let folder = checkout().join("bpf-prebuilt");
        let read = |name| fs::read_to_string(folder.join(name)).context(name);
        Ok(Claims {
            manifest: Manifest::parse(&read(Manifest::FILE_NAME)?)?,
            executed: Executed::parse(&read(Executed::FILE_NAME)?)?,
            unexecuted: Kernels::read()?.unexecuted,
        })
    }

    /// The ranges in which an object claims to run.
    fn ranges(&self, object: &ObjectEntry) -> Vec<Range> {
        let mut begins: Vec<&str> = self.manifest.objects.iter().map(|o| &*o.since).collect();
        begins.sort_by_key(|since| release(since));
        begins.dedup();
        let before = begins.iter().skip(1).map(|since| Some(since.to_string())).chain([None]);
        let ranges = begins.iter().zip(before);
        let ranges = ranges.map(|(from, before)| Range { from: from.to_string(), before });
        ranges.filter(|range| release(&range.from) >= release(&object.since)).collect()
    }

    /// The kernels that executed an object's very bytes.
    fn kernels<'a>(&'a self, object: &'a ObjectEntry) -> impl Iterator<Item = &'a ExecutedKernel> {
        self.executed.kernels.iter().filter(|kernel| {
            kernel.objects.iter().any(|executed| {
                let used = executed.native != "refused" || executed.generic != "refused";
                executed.file == object.file && executed.sha256 == object.sha256 && used
            })
        })
    }

    fn is_executed(&self, object: &ObjectEntry, range: &Range) -> bool {
        self.kernels(object).any(|kernel| range.contains(kernel.release()))
    }

    /// Where it was not executed, neighbouring ranges as one.
    fn gaps(&self, object: &ObjectEntry) -> Vec<Range> {
        let mut gaps: Vec<Range> = Vec::new();
        for range in self.ranges(object) {
            if self.is_executed(object, &range) {
                continue;
            }
            match gaps.last_mut() {
                Some(last) if last.before.as_ref() == Some(&range.from) => {
                    last.before = range.before
                }
                _ => gaps.push(range),
            }
        }
        gaps
    }

    fn mark(&self, object: &ObjectEntry, range: &Range) -> Option<&Unexecuted> {
        self.unexecuted.iter().find(|mark| {
            mark.byte_orders.contains(&object.byte_order)
                && release(&mark.from) <= release(&range.from)
                && range.before.as_ref().is_some_and(|b| release(b) <= release(&mark.before))
        })
    }

    fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        for object in &self.manifest.objects {
            for range in self.ranges(object) {
                let file = &object.file;
                match (self.is_executed(object, &range), self.mark(object, &range)) {
                    (true, None) | (false, Some(_)) => {}
                    (false, None) => problems.push(format!(
                        "{file} as it is was executed on no kernel {range}: run `make matrix`, or \
                         mark that in ci/matrix/kernels.toml"
                    )),
                    (true, Some(mark)) => problems.push(format!(
                        "{file} was executed on a kernel {range}, but ci/matrix/kernels.toml says \
                         that it was not ({}): take the mark away",
                        mark.reason
                    )),
                }
            }
        }
        problems
    }

    /// The table for README.md.
    fn table(&self) -> String {
        let mut table = String::from(
            "| object | made for | native mode | generic mode | every check passed on | not executed |\n\
             |---|---|---|---|---|---|\n",
        );
        for object in &self.manifest.objects {
            let gaps = join(self.gaps(object).iter().map(Range::to_string));
            let kernels = join(self.kernels(object).map(|kernel| kernel.version.clone()));
            let does = |mode: fn(&ExecutedObject) -> &str| self.does(object, mode);
            writeln!(
                table,
                "| `{}` | Linux {} and later | {} | {} | {kernels} | {gaps} |",
                object.file,
                object.since,
                does(|o| &o.native),
                does(|o| &o.generic),
            )
            .expect("writing to memory");
        }
        let mut machines = Vec::new();
        for kernel in &self.executed.kernels {
            let current = |object| self.kernels(object).any(|other| other.name == kernel.name);
            if !self.manifest.objects.iter().any(current) {
                continue;
            }
            machines.push(format!("{} ({})", kernel.version, kernel.architecture));
        }
        writeln!(table, "\nThe kernels are Debian's, under QEMU: {}.", machines.join(", "))
            .expect("writing to memory");
        for Unexecuted { from, before, byte_orders, reason } in &self.unexecuted {
            let orders: Vec<_> = byte_orders.iter().map(ByteOrder::to_string).collect();
            let orders = orders.join(" and ");
            writeln!(table, "Not executed from {from} to before {before} ({orders}): {reason}.")
                .expect("writing to memory");
        }
        table
    }

    /// What an object does in a mode, by the kernels where it does it.
    fn does(&self, object: &ObjectEntry, mode: impl Fn(&ExecutedObject) -> &str) -> String {
        let mut groups: Vec<(&str, Vec<&str>)> = Vec::new();
        for kernel in self.kernels(object) {
            let executed = kernel.objects.iter().find(|executed| executed.file == object.file);
            let Some(does) = executed.map(&mode) else { continue };
            match groups.iter_mut().find(|(other, _)| *other == does) {
                Some((_, kernels)) => kernels.push(&kernel.name),
                None => groups.push((does, vec![&kernel.name])),
            }
        }
        match &groups[..] {
            [] => "-".into(),
            [(does, _)] => does.to_string(),
            several => {
                let text = |(does, on): &(&str, Vec<&str>)| format!("{does} on {}", on.join(", "));
                several.iter().map(text).collect::<Vec<_>>().join("; ")
            }
        }
    }
}

fn join(items: impl Iterator<Item = String>) -> String {
    let items: Vec<_> = items.collect();
    if items.is_empty() { "-".into() } else { items.join(", ") }
}

impl Range {
    fn contains(&self, of: (u32, u32)) -> bool {
        of >= release(&self.from) && self.before.as_ref().is_none_or(|before| of < release(before))
    }
}

impl std::fmt::Display for Range {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.before {
            Some(before) => write!(f, "from {} to before {before}", self.from),
            None => write!(f, "from {} on", self.from),
        }
    }
}

#[cfg(test)]
mod tests {
    use laminar_xdp_prebuilt::Layer;

    use super::*;

    /// Two targets; the older one could not be executed where it alone runs.
    fn claims() -> Claims {
        let object = |since: &str| ObjectEntry {
            file: format!("{since}.o"),
            sha256: since.into(),
            layer: Layer::Xdp,
            target: since.into(),
            byte_order: ByteOrder::Bpfel,
            abi_version: 1,
            since: since.into(),
            requires: vec![],
            compiler: String::new(),
            flags: vec![],
            license: String::new(),
            programs: vec![],
            maps: vec![],
        };
        let objects = vec![object("5.9"), object("4.15")];
        let executed = |object: &ObjectEntry| ExecutedObject {
            file: object.file.clone(),
            sha256: object.sha256.clone(),
            native: "steers".into(),
            generic: "refused".into(),
        };
        let kernel = ExecutedKernel {
            name: "5.10".into(),
            version: "5.10.262".into(),
            package: String::new(),
            architecture: "amd64".into(),
            checks: 1,
            objects: objects.iter().map(executed).collect(),
        };
        Claims {
            manifest: Manifest {
                format_version: 1,
                default_target: "5.9".into(),
                sources_sha256: String::new(),
                objects,
            },
            executed: Executed { kernels: vec![kernel] },
            unexecuted: vec![Unexecuted {
                from: "4.15".into(),
                before: "5.9".into(),
                byte_orders: vec![ByteOrder::Bpfel],
                reason: "none to be had".into(),
            }],
        }
    }

    fn problem(change: impl FnOnce(&mut Claims)) -> String {
        let mut claims = claims();
        change(&mut claims);
        claims.problems().join("\n")
    }

    #[test]
    fn a_claim_is_executed_or_marked() {
        assert_eq!(problem(|_| {}), "");
        assert!(
            claims().table().contains("| `4.15.o` | Linux 4.15 and later | steers | refused |")
        );
        assert!(claims().table().contains("5.10.262 | from 4.15 to before 5.9 |"));
    }

    #[test]
    fn a_claim_without_a_kernel_is_noticed() {
        let other_bytes = problem(|claims| claims.manifest.objects[0].sha256 = "other".into());
        assert!(other_bytes.contains("5.9.o as it is was executed on no kernel from 5.9 on"));
        let unmarked = problem(|claims| claims.unexecuted.clear());
        assert!(unmarked.contains("4.15.o as it is was executed on no kernel from 4.15 to"));
        let other_order = vec![ByteOrder::Bpfeb];
        let other_mark = problem(|claims| claims.unexecuted[0].byte_orders = other_order);
        assert!(other_mark.contains("from 4.15 to before 5.9"));
        assert!(problem(|claims| claims.executed.kernels.clear()).contains("5.9.o as it is"));
        let older = problem(|claims| claims.executed.kernels[0].version = "5.8.1".into());
        assert!(older.contains("from 5.9 on") && older.contains("take the mark away"));
    }

    #[test]
    fn a_refusal_is_no_execution() {
        let refused = problem(|claims| {
            claims.executed.kernels[0].objects[0].native = "refused".into();
        });
        assert!(refused.contains("5.9.o as it is was executed on no kernel"), "{refused}");
    }
}
