//! Compares the kernels on which the objects claim to run with the kernels that executed them.
//!
//! An object claims every kernel from its `since` on. The `since` releases of all targets divide
//! the kernels into ranges. A claim holds in a range if one of these is true:
//!
//! - A kernel in the range executed the object with exactly these bytes.
//! - `kernels.toml` exempts the range, and says why no kernel of the range can be booted.
//! - The last run recorded a gap: the mirror lacked a kernel that the run should have booted.

use std::fmt;
use std::fs;

use anyhow::{Context, Result};
use laminar_xdp_prebuilt::{Manifest, ObjectEntry};

use crate::executed::{Executed, ExecutedGap, ExecutedKernel, objects_digest};
use crate::image::checkout;
use crate::kernels::{Kernels, Stable, Unexecuted};
use crate::release::Release;

/// The releases from the `since` of one target to the next higher `since`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Range {
    from: Release,
    /// `None` for the range that ends with the newest kernel.
    before: Option<Release>,
}

/// The claims of the objects, and everything in the repository that supports or excuses them.
pub struct Claims {
    pub manifest: Manifest,
    pub executed: Executed,
    pub unexecuted: Vec<Unexecuted>,
    stable: Vec<Stable>,
}

impl Claims {
    pub fn read() -> Result<Claims> {
        let folder = checkout().join("bpf-prebuilt");
        let read = |name| fs::read_to_string(folder.join(name)).context(name);
        let kernels = Kernels::read()?;
        Ok(Claims {
            manifest: Manifest::parse(&read(Manifest::FILE_NAME)?)?,
            executed: Executed::parse(&read(Executed::FILE_NAME)?)?,
            unexecuted: kernels.unexecuted,
            stable: kernels.stable,
        })
    }

    /// Returns the ranges in which an object claims to run.
    fn ranges(&self, object: &ObjectEntry) -> Result<Vec<Range>> {
        let begins = self.manifest.objects.iter().map(|object| object.since.parse());
        let mut begins: Vec<Release> = begins.collect::<Result<_>>()?;
        begins.sort();
        begins.dedup();
        let befores = begins.iter().skip(1).copied().map(Some).chain([None]);
        let ranges = begins.iter().zip(befores).map(|(&from, before)| Range { from, before });
        let since = object.since.parse()?;
        Ok(ranges.filter(|range| range.from >= since).collect())
    }

    /// Returns the kernels that executed `object` with exactly the bytes that the manifest lists.
    pub fn kernels<'a>(
        &'a self,
        object: &'a ObjectEntry,
    ) -> impl Iterator<Item = &'a ExecutedKernel> {
        self.executed.kernels.iter().filter(|kernel| {
            kernel.objects.iter().any(|executed| {
                let ran = executed.native != "refused" || executed.generic != "refused";
                executed.file == object.file && executed.sha256 == object.sha256 && ran
            })
        })
    }

    fn is_executed(&self, object: &ObjectEntry, range: &Range) -> bool {
        self.kernels(object).any(|kernel| range.contains(kernel.release()))
    }

    /// Returns the ranges in which an object was not executed. Joins adjacent ranges.
    pub fn unexecuted_ranges(&self, object: &ObjectEntry) -> Result<Vec<Range>> {
        let mut joined: Vec<Range> = Vec::new();
        for range in self.ranges(object)? {
            if self.is_executed(object, &range) {
                continue;
            }
            match joined.last_mut() {
                Some(last) if last.before == Some(range.from) => last.before = range.before,
                _ => joined.push(range),
            }
        }
        Ok(joined)
    }

    /// Returns the entry of `kernels.toml` that exempts an object in this range.
    fn exemption(&self, object: &ObjectEntry, range: &Range) -> Option<&Unexecuted> {
        self.unexecuted.iter().find(|exemption| {
            exemption.byte_orders.contains(&object.byte_order)
                && exemption.from <= range.from
                && range.before.is_some_and(|before| before <= exemption.before)
        })
    }

    /// Returns the gap that explains why this object was not executed in this range.
    ///
    /// A gap counts only for the objects of the run that recorded the gap. After a change of the
    /// objects, a new run must show which kernels are missing. A gap never counts in a range for
    /// which `kernels.toml` lists a stable kernel, because the mirror always has the stable
    /// kernels.
    fn gap(&self, object: &ObjectEntry, range: &Range) -> Option<&ExecutedGap> {
        let has_stable = self.stable.iter().any(|stable| {
            stable.architecture.byte_order() == object.byte_order && range.contains(stable.series)
        });
        self.current_gaps()
            .find(|gap| gap.architecture.byte_order() == object.byte_order && !has_stable)
    }

    /// Returns the gaps that were recorded with the current objects.
    pub fn current_gaps(&self) -> impl Iterator<Item = &ExecutedGap> {
        let objects = objects_digest(&self.manifest);
        self.executed.gaps.iter().filter(move |gap| gap.objects_sha256 == objects)
    }

    /// Describes each claim that does not hold, and each exemption that is no longer needed.
    pub fn problems(&self) -> Result<Vec<String>> {
        let mut problems = Vec::new();
        for object in &self.manifest.objects {
            for range in self.ranges(object)? {
                let file = &object.file;
                match (self.is_executed(object, &range), self.exemption(object, &range)) {
                    (true, None) | (false, Some(_)) => {}
                    (false, None) if self.gap(object, &range).is_some() => {}
                    (false, None) => problems.push(format!(
                        "{file}: these bytes were executed on no kernel {range}: run `make \
                         matrix`, or list the range as unexecuted in ci/matrix/kernels.toml"
                    )),
                    (true, Some(exemption)) => problems.push(format!(
                        "{file} was executed on a kernel {range}, but ci/matrix/kernels.toml \
                         lists the range as unexecuted ({}): remove that entry",
                        exemption.reason
                    )),
                }
            }
        }
        Ok(problems)
    }

    /// Describes each claim that holds only because of a gap.
    pub fn excused(&self) -> Result<Vec<String>> {
        let mut excused = Vec::new();
        for object in &self.manifest.objects {
            for range in self.ranges(object)? {
                let is_settled =
                    self.is_executed(object, &range) || self.exemption(object, &range).is_some();
                if let Some(gap) = self.gap(object, &range).filter(|_| !is_settled) {
                    let (file, reason) = (&object.file, &gap.reason);
                    excused
                        .push(format!("gap: {file} was executed on no kernel {range}: {reason}"));
                }
            }
        }
        Ok(excused)
    }
}

impl Range {
    fn contains(&self, release: Release) -> bool {
        release >= self.from && self.before.is_none_or(|before| release < before)
    }
}

impl fmt::Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.before {
            Some(before) => write!(f, "from {} to before {before}", self.from),
            None => write!(f, "from {} on", self.from),
        }
    }
}

#[cfg(test)]
pub mod tests;
