//! Compares the verifier's work for each program, in instructions and states, with a budget. The
//! work delays every load, and old kernels refuse programs that need too much work.

use anyhow::{Context, Result, ensure};
use laminar_xdp_prebuilt::{ByteOrder, Manifest, embedded};
use serde::Deserialize;
use testbed::verifier::verifier_cost;

use crate::support::{note, prebuilt, targets, tests};

tests! {
    Root:
        every_program_stays_within_its_verifier_budget;
}

/// The content of `bpf-prebuilt/verifier.toml`.
#[derive(Deserialize)]
struct Record {
    program: Vec<Budget>,
}

#[derive(Deserialize)]
struct Budget {
    target: String,
    name: String,
    features: u32,
    max_instructions: u32,
    max_states: u32,
}

fn every_program_stays_within_its_verifier_budget() -> Result<()> {
    let text = std::fs::read_to_string(prebuilt().join("verifier.toml"))?;
    let record: Record = toml::from_str(&text)?;
    let manifest = Manifest::parse(embedded::MANIFEST)?;
    let mut beyond = Vec::new();
    let ours = manifest.objects.iter().filter(|object| object.byte_order == ByteOrder::HOST);
    for object in ours {
        let is_xdp = object.file.starts_with("laminar_xdp");
        if is_xdp && !targets().contains(&object.target.as_str()) {
            continue;
        }
        for program in &object.programs {
            let budget = record
                .program
                .iter()
                .find(|budget| budget.target == object.target && budget.name == program.name);
            let budget = budget.with_context(|| {
                format!("{} of {} has no budget in verifier.toml", program.name, object.target)
            })?;
            let path = prebuilt().join(&object.file);
            let path = path.to_str().context("its path")?;
            let name = std::ffi::CString::new(program.name.as_str())?;
            let cost = verifier_cost(path, &name, budget.features)?;
            note(format!(
                "verifier, {} {}: {} instructions in the object, {} processed, {} states",
                object.target, program.name, program.instructions, cost.instructions, cost.states
            ));
            if cost.instructions > budget.max_instructions || cost.states > budget.max_states {
                beyond.push(format!("{} of {}: {cost:?}", program.name, object.target));
            }
        }
    }
    ensure!(beyond.is_empty(), "over budget in bpf-prebuilt/verifier.toml: {beyond:#?}");
    Ok(())
}
