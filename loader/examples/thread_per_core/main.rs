//! Thread-per-core ingest on an interface of this machine: what has arrived, once a
//! second, until it is interrupted. `runtime.rs` beside it is the part to copy.
//!
//! ```sh
//! cargo run --example thread_per_core -- eth0 0 1 2 3    # interface, CPUs
//! ```

#[allow(dead_code, reason = "it shows more than this program needs")]
mod runtime;

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use laminar_xdp::{IngestConfig, XdpConfig, XdpError};
use runtime::ThreadPerCoreRuntime;

fn main() -> ExitCode {
    // Warnings say what could not be had, such as XDP or large receive buffers.
    tracing_subscriber::fmt().with_writer(std::io::stderr).init();
    let mut arguments = std::env::args().skip(1);
    let interface = arguments.next().unwrap_or_default();
    let cores: Option<Vec<u32>> = arguments.map(|core| core.parse().ok()).collect();
    let Some(cores) = cores.filter(|cores| !cores.is_empty()) else {
        eprintln!(
            "error: name the interface that the datagrams arrive on (`ip link` lists them) and \
             the ids of the CPUs that are to own partitions (`lscpu -e` lists them)"
        );
        return ExitCode::FAILURE;
    };
    match ingest(&interface, cores) {
        Ok(never) => never,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn ingest(interface: &str, cores: Vec<u32>) -> Result<ExitCode, XdpError> {
    let xdp_config = XdpConfig::builder().enabled(true).interface(interface).build()?;
    let config = IngestConfig::new(cores);
    let bytes = Arc::new(AtomicU64::new(0));
    let mut runtime = ThreadPerCoreRuntime::with_xdp(&config, &xdp_config, |_partition| {
        let bytes = bytes.clone();
        Box::new(move |datagram| {
            bytes.fetch_add(datagram.payload.len() as u64, Ordering::Relaxed);
        })
    })?;
    println!("port {} on CPUs {:?}: {}", xdp_config.port, config.cores, runtime.ingest().mode());
    loop {
        std::thread::sleep(Duration::from_secs(1));
        let bytes = bytes.load(Ordering::Relaxed);
        println!("{bytes} bytes of payload; {:?}", runtime.xdp_stats()?);
        if !runtime.dead_cores().is_empty() {
            eprintln!("the threads of CPUs {:?} died and are started again", runtime.dead_cores());
            runtime.restart_dead()?;
        }
    }
}
