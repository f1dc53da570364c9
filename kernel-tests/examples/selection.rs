//! Which object serves on this kernel, in which mode, and why not the others.
//!
//! Makes two network namespaces joined by a veth pair, loads there in every mode and
//! prints what was chosen; then each object by itself, also those for sockets. `--json`
//! prints the same for scripts. Nothing of the machine's own network is touched.

use std::process::ExitCode;

use anyhow::{Context, Result};
use laminar_xdp::{Ingest, IngestConfig, XdpAttachMode, XdpConfig, XdpError, XdpLoader};
use laminar_xdp_prebuilt::{ByteOrder, Layer, Manifest, ObjectEntry};
use serde_json::json;
use testbed::TestNet;

/// This checkout's objects, whatever a package may have installed.
const OBJECTS: &str = "bpf-prebuilt";

fn main() -> ExitCode {
    if let Some(missing) = testbed::missing_privileges() {
        eprintln!("error: this {missing}, to make network namespaces and load XDP programs");
        return ExitCode::FAILURE;
    }
    let print = match std::env::args().nth(1).as_deref() {
        None => print_words,
        Some("--json") => print_json,
        Some(other) => {
            eprintln!("error: {other:?} is not --json, and there is nothing else to say");
            return ExitCode::FAILURE;
        }
    };
    match print() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn load(mode: XdpAttachMode, target: Option<&str>) -> Result<Result<XdpLoader, XdpError>> {
    let wire = TestNet::new().context("make two namespaces and a veth pair")?;
    let mut config = XdpConfig::builder()
        .enabled(true)
        .interface(TestNet::INTERFACE)
        .bpf_object_path(OBJECTS)
        .attach_mode(mode);
    if let Some(target) = target {
        config = config.force_target(target);
    }
    let (config, cores) = (config.build()?, testbed::online_cpus());
    Ok(wire.receiver.enter(|| XdpLoader::load_and_attach(&config, &cores)))
}

/// Why no object chooses among sockets; `None` if one does.
fn sockets_refused() -> Result<Option<String>> {
    let wire = TestNet::new().context("make two namespaces and a veth pair")?;
    let config = XdpConfig::builder().bpf_object_path(OBJECTS).build()?;
    let ingest = IngestConfig::new(testbed::online_cpus());
    let ingest = wire.receiver.enter(|| Ingest::open(&ingest, &config))?;
    Ok(ingest.classic_bpf_reason().map(String::from))
}

const MODES: [XdpAttachMode; 3] =
    [XdpAttachMode::Auto, XdpAttachMode::Native, XdpAttachMode::Generic];

fn print_words() -> Result<()> {
    for mode in MODES {
        println!("--- asked for {mode} mode");
        match load(mode, None)? {
            Ok(loader) => println!("{}\n", loader.selection()),
            Err(error) => println!("{error}\n"),
        }
    }
    match sockets_refused()? {
        None => println!("--- sockets: chosen and filtered by an object\n"),
        Some(reason) => println!("--- sockets: chosen by classic BPF: {reason}\n"),
    }
    println!("--- each object by itself");
    println!("{:<37}{:<12}generic", "", "native");
    for (file, [native, generic]) in objects()? {
        println!("{file:<37}{native:<12}{generic}");
    }
    Ok(())
}

fn print_json() -> Result<()> {
    let mut modes = json!({});
    for mode in MODES {
        modes[mode.to_string()] = match load(mode, None)? {
            Ok(loader) => serde_json::to_value(loader.selection())?,
            Err(error) => json!({ "error": error.to_string() }),
        };
    }
    let mut each = Vec::new();
    for (file, [native, generic]) in objects()? {
        each.push(json!({ "file": file, "native": native, "generic": generic }));
    }
    println!("{}", json!({ "modes": modes, "objects": each }));
    Ok(())
}

/// What each object of this machine's byte order does in native and in generic mode.
fn objects() -> Result<Vec<(String, [&'static str; 2])>> {
    let manifest = std::fs::read_to_string(format!("{OBJECTS}/{}", Manifest::FILE_NAME))
        .context("run it from the checkout's root")?;
    let mut entries = Manifest::parse(&manifest)?.objects;
    entries.retain(|entry| entry.byte_order == ByteOrder::HOST);
    let sockets = if sockets_refused()?.is_none() { "chooses" } else { "refused" };
    let does = |mode, entry: &ObjectEntry| -> Result<&'static str> {
        if entry.layer == Layer::Sockets {
            return Ok(sockets); // behind XDP in any mode, and without it
        }
        Ok(match load(mode, Some(&entry.target))? {
            Ok(loader) if loader.steers() => "steers",
            Ok(_) => "filters",
            Err(_) => "refused",
        })
    };
    let rows = entries.into_iter().map(|entry| {
        let native = does(XdpAttachMode::Native, &entry)?;
        let generic = does(XdpAttachMode::Generic, &entry)?;
        Ok((entry.file, [native, generic]))
    });
    rows.collect()
}
