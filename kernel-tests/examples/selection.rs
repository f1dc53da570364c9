//! Shows which object the loader picks on this kernel in each attach mode, and why it rejects
//! the others.
//!
//! Creates two network namespaces with a veth pair between them, and loads in every mode on an
//! interface of the pair. Then loads each object alone, including the object for sockets. `--json`
//! prints the results as JSON for scripts. The example does not touch the interfaces of the
//! machine.

use std::process::ExitCode;

use anyhow::{Context, Result};
use laminar_xdp::{Ingest, IngestConfig, XdpAttachMode, XdpConfig, XdpError, XdpLoader};
use laminar_xdp_prebuilt::{ByteOrder, Layer, Manifest, ObjectEntry};
use serde_json::json;
use testbed::TestNet;

/// The folder with the objects of this checkout. An installed package may provide other objects.
const OBJECTS: &str = "bpf-prebuilt";

fn main() -> ExitCode {
    if let Some(missing) = testbed::missing_privileges() {
        eprintln!("error: selection {missing} to create network namespaces and load XDP programs");
        return ExitCode::FAILURE;
    }
    let print = match std::env::args().nth(1).as_deref() {
        None => print_words,
        Some("--json") => print_json,
        Some(other) => {
            eprintln!("error: unknown argument {other:?}; the only argument is --json");
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
    let net = TestNet::new().context("make two namespaces and a veth pair")?;
    let mut config = XdpConfig::builder()
        .enabled(true)
        .interface(TestNet::INTERFACE)
        .bpf_object_path(OBJECTS)
        .attach_mode(mode);
    if let Some(target) = target {
        config = config.force_target(target);
    }
    let (config, cpus) = (config.build()?, testbed::online_cpus());
    Ok(net.receiver.enter(|| XdpLoader::load_and_attach(&config, &cpus)))
}

/// Why no BPF object chooses the socket, or `None` if a BPF object does.
fn sockets_refused() -> Result<Option<String>> {
    let net = TestNet::new().context("make two namespaces and a veth pair")?;
    let config = XdpConfig::builder().bpf_object_path(OBJECTS).build()?;
    let ingest = IngestConfig::new(testbed::online_cpus());
    let ingest = net.receiver.enter(|| Ingest::open(&ingest, &config))?;
    Ok(ingest.classic_bpf_reason().map(String::from))
}

const MODES: [XdpAttachMode; 3] =
    [XdpAttachMode::Auto, XdpAttachMode::Native, XdpAttachMode::Generic];

fn print_words() -> Result<()> {
    for mode in MODES {
        println!("--- attach mode {mode}");
        match load(mode, None)? {
            Ok(loader) => println!("{}\n", loader.selection()),
            Err(error) => println!("{}\n", error.with_causes()),
        }
    }
    match sockets_refused()? {
        None => println!("--- sockets: an object chooses and filters\n"),
        Some(reason) => println!("--- sockets: classic BPF chooses, because {reason}\n"),
    }
    println!("--- each object alone");
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
            Err(error) => json!({ "error": error.with_causes().to_string() }),
        };
    }
    let mut each = Vec::new();
    for (file, [native, generic]) in objects()? {
        each.push(json!({ "file": file, "native": native, "generic": generic }));
    }
    println!("{}", json!({ "modes": modes, "objects": each }));
    Ok(())
}

/// The objects for this machine's byte order, and what each object does in native and in generic
/// mode.
fn objects() -> Result<Vec<(String, [&'static str; 2])>> {
    let manifest = std::fs::read_to_string(format!("{OBJECTS}/{}", Manifest::FILE_NAME))
        .context("cannot read the manifest; run this example from the root of the checkout")?;
    let mut entries = Manifest::parse(&manifest)?.objects;
    entries.retain(|entry| entry.byte_order == ByteOrder::HOST);
    let sockets = if sockets_refused()?.is_none() { "chooses" } else { "refused" };
    let does = |mode, entry: &ObjectEntry| -> Result<&'static str> {
        if entry.layer == Layer::Sockets {
            // The object for sockets works without XDP, so its result is the same in both modes.
            return Ok(sockets);
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
